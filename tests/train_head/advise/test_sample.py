"""Samples of the pictures of a folder, and the comparison of their features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from base.errors import FeatureStoreError
from base.files import hash_file
from base.options import make_options
from base.terminal import Console
from extract.config import ExtractConfig
from extract.images.scan import scan_images
from features.catalog.tables import ImageRow
from features.presets import Preset, PresetName
from features.validation_split import is_held_out
from tests.errors import raises
from tests.pictures import fill_folder
from train_head.advise.advice import Advice, advise
from train_head.advise.config import AdviseConfig
from train_head.advise.sample import choose_sample

SMALL_PRESETS = {
    PresetName.COURSE: Preset({"image_size": 77, "cut": "mixed0"}, {"cut": "mixed0"}),
    PresetName.ACCURATE: Preset(
        {"image_size": 83, "cut": "mixed0,mixed1", "pool": "avg"}, {"cut": "mixed0,mixed1", "solver": "ridge"}
    ),
}


def choose(folder: Path, num_pictures: int = 600, seed: int = 0) -> Sequence[ImageRow]:
    return choose_sample(scan_images(folder).images, folder, num_pictures, seed)


def build_small_backbone(input_shape: tuple[int, int, int], **_: Any) -> Any:
    """Build two blocks in place of InceptionV3, which takes seconds; the tests have picture sizes that no other has."""
    import keras

    outputs = inputs = keras.Input(input_shape)
    for number in range(2):
        branches = [keras.layers.Conv2D(4, 3, strides=4, padding="same", use_bias=False)(outputs) for _ in range(2)]
        outputs = keras.layers.Concatenate(name=f"mixed{number}")(branches)
    return keras.Model(inputs, outputs)


def ask(folder: Path, out: Path | None, quiet: Console, **options: object) -> Advice:
    values = {"images": folder, "out": out, "weights": "random", **options}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keras.applications.InceptionV3", build_small_backbone)
        values_of = {name: preset.extract for name, preset in SMALL_PRESETS.items()}
        patch.setattr(ExtractConfig, "PRESETS", values_of)
        patch.setattr("train_head.advise.sample.PRESETS", SMALL_PRESETS)
        return advise(make_options(AdviseConfig, values, "advise"), quiet)


@pytest.mark.unit
def test_choose_sample_has_equally_many_training_pictures_of_each_class(tmp_path: Path) -> None:
    fill_folder(tmp_path, {"train/cats": 30, "train/dogs": 12, "validation/cats": 5, "validation/dogs": 5})
    chosen = choose(tmp_path, 40)
    assert {image.split for image in chosen} == {"train"}
    assert Counter(image.label for image in chosen) == {"cats": 20, "dogs": 12}
    assert chosen == choose(tmp_path, 40)
    assert chosen != choose(tmp_path, 40, seed=1)


@pytest.mark.unit
def test_choose_sample_leaves_out_pictures_that_training_would_validate_on_and_copies(tmp_path: Path) -> None:
    fill_folder(tmp_path, {"cats": 20, "dogs": 20})
    (tmp_path / "dogs/copy.jpg").write_bytes((tmp_path / "dogs/000.jpg").read_bytes())
    hashes = [hash_file(tmp_path / image.path) for image in choose(tmp_path)]
    assert len(hashes) == len(set(hashes)) > 20
    assert not any(is_held_out(bytes.fromhex(found)) for found in hashes)


@pytest.mark.unit
def test_choose_sample_of_renamed_pictures_has_the_same_content(tmp_path: Path) -> None:
    fill_folder(tmp_path / "a", {"train/cats": 20, "train/dogs": 20, "validation/cats": 1, "validation/dogs": 1})
    before = {hash_file(tmp_path / "a" / image.path) for image in choose(tmp_path / "a", 20)}
    for path in sorted((tmp_path / "a/train/cats").iterdir()):
        path.rename(path.with_name(f"x{path.stem[::-1]}.jpg"))
    after = {hash_file(tmp_path / "a" / image.path) for image in choose(tmp_path / "a", 20)}
    # Only files of equal size are ordered by their names.
    assert len(before & after) >= 18


@pytest.mark.unit
def test_choose_sample_of_many_classes_is_limited(tmp_path: Path) -> None:
    rows = [
        ImageRow(f"c{number}/{copy}.jpg", f"c{number}", "train", 1000 * number + copy, 1)
        for number in range(50)
        for copy in range(12)
    ]
    for row in rows:
        (tmp_path / row.path).parent.mkdir(exist_ok=True)
        (tmp_path / row.path).write_text(row.path)
    chosen = choose_sample([*rows, rows[0]._replace(split="validation")], tmp_path, 100, 0)
    assert Counter(Counter(image.label for image in chosen).values()) == {10: 10}


def test_advise_on_pictures_compares_two_sizes_and_reuses_the_features(
    pictures: Path, tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    advice = ask(pictures, tmp_path / "advise", quiet)
    (comparison,) = advice.comparisons
    assert (comparison.num_pictures, advice.num_pictures) == (24, 36)
    assert [row.setting.name for row in comparison.rows] == [
        *("77 px, mixed0", "77 px, mixed0, avg"),
        *("83 px, 2 layers", "83 px, mixed0, avg", "83 px, mixed1, avg"),
    ]
    assert all(row.setting.rate > 0 for row in comparison.rows)
    assert advice.to_json()["comparisons"][0]["rows"][0]["extraction_seconds"] > 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "advise").rglob("shards/*")}
    again = ask(pictures, tmp_path / "advise", quiet)
    assert [row.accuracy for row in again.comparisons[0].rows] == [row.accuracy for row in comparison.rows]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "advise").rglob("shards/*")} == before
    assert capsys.readouterr() == ("", "")


def test_advise_on_a_table_with_several_labels_is_an_error(tmp_path: Path, quiet: Console) -> None:
    fill_folder(tmp_path / "pictures", {"cats": 2})
    (tmp_path / "labels.csv").write_text("path,labels\ncats/000.jpg,a;b\ncats/001.jpg,b;c\n")
    with raises(FeatureStoreError, where=tmp_path / "pictures"):
        ask(tmp_path / "pictures", None, quiet, labels=tmp_path / "labels.csv", columns="label=labels,separator=;")
