"""Extraction of a public layout without an option, and of some of its classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.store import FeatureStore
from tests.commands import CommandResult, run_command
from tests.extract.extraction import extract
from tests.inputs.folders import SMALL, draw_new
from tests.pictures import fill_folder

CLASSES = ("cats", "dogs", "owls")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with seg_train/seg_train/, seg_test/seg_test/, and pictures without labels in seg_pred/."""
    folder = tmp_path_factory.mktemp("intel")
    fill_folder(folder / "seg_train/seg_train", dict.fromkeys(CLASSES, 3))
    fill_folder(folder / "seg_test/seg_test", dict.fromkeys(CLASSES, 1), start=50)
    (folder / "seg_pred/seg_pred").mkdir(parents=True)
    for number in range(2):
        (folder / f"seg_pred/seg_pred/{number}.jpg").write_bytes(draw_new(number))
    (folder / ".DS_Store").touch()
    return folder


@pytest.fixture(scope="module")
def extracted(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[CommandResult, Path]:
    store = tmp_path_factory.mktemp("store") / "store"
    return run_command("extract.__main__", "--images", pictures, "--store", store, *SMALL, "--json"), store


def test_extract_public_layout_without_an_option_reports_splits_and_what_is_left_out(
    extracted: tuple[CommandResult, Path],
) -> None:
    command, store = extracted
    assert command.status == 0, command.err
    assert command.json["splits"] == {"seg_train/seg_train": "train", "seg_test/seg_test": "test"}
    assert [(found["path"], found["num_pictures"]) for found in command.json["skipped"]] == [("seg_pred", 2)]
    assert command.json["ignored"] == {".DS_Store": 1}
    assert "train is seg_train/seg_train/" in command.err
    splits = {example.path.partition("/")[0]: example.split for example in FeatureStore(store).examples}
    assert splits == {"seg_train": "train", "seg_test": "test"}


def test_extract_left_out_class_leaves_the_catalog_and_keeps_its_features(
    pictures: Path, extracted: tuple[CommandResult, Path]
) -> None:
    _, store = extracted
    fewer = extract(pictures, store, classes="cats,dogs", batch_size=0)
    assert (fewer.computed, fewer.removed, fewer.images) == (0, 4, 8)
    assert FeatureStore(store).classes == ["cats", "dogs"]
    again = extract(pictures, store, batch_size=0)
    assert (again.computed, again.removed, again.images) == (0, 0, 12)
    assert FeatureStore(store).classes == list(CLASSES)


def test_dry_run_lists_what_is_left_out(pictures: Path, tmp_path: Path) -> None:
    options = ["--images", pictures, "--store", tmp_path / "new", "--classes", "cats,dogs", "--dry-run"]
    command = run_command("extract.__main__", *options, "--json")
    assert command.status == 0, command.err
    assert command.json["classes"] == {"train": {"cats": 3, "dogs": 3}, "test": {"cats": 1, "dogs": 1}}
    assert sum(found["num_pictures"] for found in command.json["skipped"]) == 2 + 4
    assert not (tmp_path / "new").exists()
