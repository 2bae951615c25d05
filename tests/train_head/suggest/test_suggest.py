"""Suggestions from an exported model and a folder of pictures."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import headstart as hs
from base.errors import HeadstartError, UsageError
from base.terminal import Console
from tests.commands import run_command
from tests.errors import raises
from tests.pictures import draw_picture, encode, fill_folder
from tests.train_head.synthetic import SMALL_SIZE, build_small_backbone, draw_distance, make_small_card
from train_head.export.stitch import save_model, stitch
from train_head.solvers.head import build_head
from train_head.suggest.config import SuggestConfig
from train_head.suggest.run import PAGE_FILE, TABLE_FILE, suggest_pictures

MODULE = "train_head.suggest.__main__"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of cats and dogs, one half red and half blue, a copy of it, and a file that is not a picture."""
    folder = tmp_path_factory.mktemp("unlabelled")
    fill_folder(folder, {"a": 0})
    for number, label in enumerate(["cats", "dogs"] * 3):
        (folder / f"{number}.png").write_bytes(encode(draw_picture(label, number)))
    half = Image.blend(draw_picture("cats", 0), draw_picture("dogs", 1), 0.5)
    (folder / "half.png").write_bytes(encode(half))
    shutil.copy(folder / "half.png", folder / "half again.png")
    (folder / "broken.png").write_bytes(b"\x89PNG")
    return folder


def read_table(out: Path) -> list[list[str]]:
    with (out / TABLE_FILE).open(newline="") as file:
        return list(csv.reader(file))


def test_suggest_ranks_the_uncertain_picture_first_and_lists_the_unreadable_one(
    tiny_two: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run_command(MODULE, tiny_two, pictures, "--out", out, "--count", 4, "--json")
    assert done.status == 1
    assert [Path(file["image"]).name for file in done.json["failed"]] == ["broken.png"]
    found = done.json["suggestions"]
    assert [each["rank"] for each in found] == [1, 2, 3, 4]
    names = [Path(each["path"]).name for each in found]
    assert names[0] in ("half.png", "half again.png")
    # The other one is a copy.
    assert len({"half.png", "half again.png"} & set(names)) == 1
    header, *rows = read_table(out)
    assert header == ["rank", "path", "label", "probability", "margin"]
    assert [row[1] for row in rows] == [each["path"] for each in found]
    page = (out / PAGE_FILE).read_text()
    assert page.count("data:image/jpeg;base64,") == 4
    assert done.json["num_pictures"] == 8


def test_suggest_from_python_returns_the_suggestions(tiny_two: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.warns(hs.errors.HeadstartWarning):
        found = hs.suggest(tiny_two, pictures, tmp_path / "out", count=2)
    assert [each.rank for each in found] == [1, 2]
    assert found[0].margin <= found[1].margin
    assert (found.table_path, len(found.failed)) == (tmp_path / "out" / TABLE_FILE, 1)


def test_suggest_again_replaces_only_its_own_files(tiny_three: Path, pictures: Path, tmp_path: Path) -> None:
    quiet, out = Console(), tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    config = SuggestConfig(tiny_three, [pictures], out, count=3)
    suggest_pictures(config, quiet)
    assert len(suggest_pictures(config, quiet)) == 3
    assert sorted(path.name for path in out.iterdir()) == ["notes.txt", TABLE_FILE, PAGE_FILE]
    (out / TABLE_FILE).write_text("mine")
    with raises(HeadstartError, where=out / TABLE_FILE):
        suggest_pictures(config, quiet)
    assert (out / TABLE_FILE).read_text() == "mine"


@pytest.mark.parametrize("change", [{"skip_outliers": True}, {"files": [Path("absent")]}])
def test_suggest_with_invalid_options_writes_nothing(
    change: dict[str, Any], tiny_two: Path, pictures: Path, tmp_path: Path
) -> None:
    config = SuggestConfig(**{"model": tiny_two, "files": [pictures], "out": tmp_path / "out", **change})
    with pytest.raises(UsageError):
        suggest_pictures(config, Console())
    assert not (tmp_path / "out").exists()


def test_suggest_skips_pictures_that_are_none_of_the_classes(pictures: Path, tmp_path: Path) -> None:
    backbone = build_small_backbone()
    model = stitch(backbone, build_head((32,), 2, 4, 0.0, seed=4), SMALL_SIZE, draw_distance(backbone))
    files = sorted(pictures.glob("?.png"))

    def save(threshold: float) -> Path:
        save_model(model, replace(make_small_card(2), outlier_threshold=threshold), tmp_path / "model.keras")
        return tmp_path / "model.keras"

    nearest, *others = sorted(hs.predict(save(1e9), files), key=lambda found: found.distance or 0)
    assert nearest.distance is not None
    config = SuggestConfig(save(nearest.distance * 1.0001), [*files], tmp_path / "out", skip_outliers=True)
    found = suggest_pictures(config, Console())
    assert [each.path for each in found] == [nearest.image]
    assert found.num_outliers == len(others)


def test_suggest_without_a_readable_picture_is_an_error(tiny_two: Path, pictures: Path, tmp_path: Path) -> None:
    config = SuggestConfig(tiny_two, [pictures / "broken.png"], tmp_path / "out")
    with raises(HeadstartError, where=pictures / "broken.png"):
        suggest_pictures(config, Console())
    assert not (tmp_path / "out").exists()


@pytest.mark.unit
@pytest.mark.parametrize("name", ["model.onnx", "model.tflite", "saved_model"])
def test_suggest_with_a_format_without_features_is_a_usage_error(pictures: Path, tmp_path: Path, name: str) -> None:
    with raises(UsageError, where=tmp_path / name):
        suggest_pictures(SuggestConfig(tmp_path / name, [pictures], tmp_path / "out"), Console())
    assert not (tmp_path / "out").exists()


def test_suggest_accepts_the_folder_of_an_export(tiny_two: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    shutil.copy(tiny_two, tmp_path / "export/model.keras")
    done = run_command(MODULE, tmp_path / "export", pictures / "0.png", "--out", tmp_path / "out", "--json")
    assert done.json["num_pictures"] == 1
