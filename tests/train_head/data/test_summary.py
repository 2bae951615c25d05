"""What a training says of its pictures: every one that is left out is counted, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from base.errors import HeadstartError
from base.lock import hold_write_lock, is_locked
from base.terminal import Console
from features.catalog.tables import ImageRow
from features.schema import FeatureKey, FeatureStatus, ImageStatus, Origin
from features.store import FeatureStore
from features.writer import FeatureWriter
from tests.train_head.synthetic import FINGERPRINT, SHAPE, draw_features, hash_text, list_paths, make_store
from train_head.config import TrainConfig
from train_head.data.split import split_examples
from train_head.data.summary import count_unusable, list_conflicts, log_dataset_summary
from train_head.prepare import split_store

PATHS = list_paths({"train/cats": 8, "train/dogs": 8, "validation/cats": 4, "validation/dogs": 4})


def make_mixed_store(folder: Path, statuses: Sequence[FeatureStatus]) -> FeatureStore:
    """A store in which the first features have these statuses, one picture failed and two are to come."""
    with FeatureWriter(folder, FINGERPRINT, Origin(SHAPE, "random", "", "")) as writer:
        given = [*statuses, *[FeatureStatus.OK] * (len(PATHS) - len(statuses))]
        writer.add_features([FeatureKey(hash_text(path), 0) for path in PATHS], draw_features(PATHS), given)
        for path in PATHS:
            split, label, _ = path.split("/")
            writer.add_image(ImageRow(path, label, split, 1, 1, hash_text(path), ImageStatus.DONE))
        failed = ImageRow("train/cats/bad.jpg", "cats", "train", 0, 1, None, ImageStatus.FAILED, "an empty file")
        writer.add_image(failed)
        for name in ("new1", "new2"):
            writer.add_image(ImageRow(f"train/dogs/{name}.jpg", "dogs", "train", 1, 1))
        writer.commit()
    return FeatureStore(folder)


def listen(store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> list[str]:
    log_dataset_summary(store, split_examples(store.examples, 0.2), TrainConfig(store.path, Path("run")), Console())
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]


def test_remarks_count_every_picture_that_is_left_out_by_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_mixed_store(tmp_path / "store", [FeatureStatus.OVERFLOW, FeatureStatus.NONFINITE])
    assert count_unusable(store) == {"num_pending": 2, "num_failed": 1, "num_unsound": 2}
    warnings = listen(store, capsys)
    assert len(warnings) == 3
    for count, shown in ((1, "train/cats/bad.jpg: an empty file"), (2, "train/cats/00.jpg"), (2, "no features")):
        assert any(f": {count} of 27 pictures" in warning and shown in warning for warning in warnings)


def test_remarks_of_a_whole_store_warn_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path / "store", PATHS)
    assert listen(store, capsys) == []
    assert count_unusable(store) == {"num_pending": 0, "num_failed": 0, "num_unsound": 0}


def test_remarks_name_pictures_that_are_in_the_folders_of_several_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = [hash_text(path) for path in PATHS]
    contents[8] = contents[0]
    store = make_store(tmp_path / "store", PATHS, contents=contents)
    assert list_conflicts(store.examples) == [["train/cats/00.jpg", "train/dogs/00.jpg"]]
    (warning,) = listen(store, capsys)
    assert "train/cats/00.jpg = train/dogs/00.jpg" in warning


# A store that another extraction is filling, or that was made from another folder.


def test_is_locked_while_a_writer_has_the_store(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with hold_write_lock(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    with hold_write_lock(tmp_path):
        assert is_locked(tmp_path)


@pytest.mark.parametrize("num_pending", [0, 3])
def test_split_store_says_that_a_first_extraction_is_running(tmp_path: Path, num_pending: int) -> None:
    with FeatureWriter(tmp_path / "store", FINGERPRINT, Origin(SHAPE, "random", "", "")) as writer:
        writer.update_images([ImageRow(path, "cats", "train", 1, 1) for path in PATHS[:num_pending]], [])
        store = FeatureStore(tmp_path / "store")
        with pytest.raises(HeadstartError) as running:
            split_store(store, TrainConfig(store.path, Path("run")))
    assert "is running" in running.value.advice
    with pytest.raises(HeadstartError) as stopped:
        split_store(FeatureStore(tmp_path / "store"), TrainConfig(store.path, Path("run")))
    assert "is running" not in stopped.value.advice


def test_split_store_made_from_another_folder_is_refused_and_names_both(tmp_path: Path) -> None:
    own, other = tmp_path / "a/pics", tmp_path / "b/pics"
    store = make_store(tmp_path / "store", PATHS, images_folder=str(own))
    with pytest.raises(HeadstartError) as raised:
        split_store(store, TrainConfig(store.path, Path("run"), images=other))
    assert str(other) in raised.value.expected
    assert str(own) in raised.value.got
    for images in (own, None):
        assert len(split_store(store, TrainConfig(store.path, Path("run"), images=images)).train) == 16
