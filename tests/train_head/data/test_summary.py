"""The summary of a training's pictures: unused pictures by reason, conflicts, and stores to refuse."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from base.errors import HeadstartError
from base.lock import hold_write_lock
from base.terminal import Console
from features.catalog.tables import ImageRow
from features.schema import FeatureKey, FeatureStatus, ImageStatus, Origin
from features.store import FeatureStore
from features.store_writer import FeatureWriter
from tests.errors import raises
from tests.train_head.synthetic import (
    FINGERPRINT,
    SHAPE,
    add_picture,
    add_views,
    draw_features,
    hash_text,
    list_paths,
    make_example,
    make_store,
)
from train_head.config import TrainConfig
from train_head.data.split import split_examples
from train_head.data.summary import (
    check_extraction,
    check_images_folder,
    count_unusable,
    list_conflicts,
    log_dataset_summary,
    warn_if_store_changed,
)
from train_head.prepare import split_store

pytestmark = pytest.mark.unit

PATHS = list_paths({"train/cats": 8, "train/dogs": 8, "validation/cats": 4, "validation/dogs": 4})


def make_mixed_store(folder: Path, statuses: Sequence[FeatureStatus]) -> FeatureStore:
    """Make a store whose first features have these statuses, with one failed picture and two without features."""
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


def list_warnings(store: FeatureStore, capsys: pytest.CaptureFixture[str], **options: Any) -> list[str]:
    """Log the summary of a training on a store, and return its warnings."""
    config = TrainConfig(store.path, Path("run"), **options)
    log_dataset_summary(store, split_examples(store.examples, 0.2), config, Console())
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]


def test_summary_warns_of_unused_pictures_by_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_mixed_store(tmp_path / "store", [FeatureStatus.OVERFLOW, FeatureStatus.NONFINITE])
    assert count_unusable(store) == {"num_pending": 2, "num_failed": 1, "num_unsound": 2}
    warnings = list_warnings(store, capsys)
    assert all(line.startswith(f"warning: {store.path}: ") for line in warnings)
    assert sorted(line.removeprefix(f"warning: {store.path}: ")[:15] for line in warnings) == [
        "1 of 27 picture",
        "2 of 27 picture",
        "2 of 27 picture",
    ]
    # The warnings contain the paths of a failed and an unsound picture.
    assert [sum(path in line for line in warnings) for path in ("train/cats/bad.jpg", "train/cats/00.jpg")] == [1, 1]


def test_summary_of_a_complete_store_has_counts_and_no_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [*PATHS, *list_paths({"test/cats": 3})]
    store = make_store(tmp_path / "store", paths)
    split = split_examples(store.examples, 0.2)
    log_dataset_summary(store, split, TrainConfig(store.path, Path("run")), Console())
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(text in lines[0] for text in (str(store.path), "16 training", "8 validation", "cats, dogs", split.rule))
    assert lines[1].startswith("3 pictures in test/")
    assert count_unusable(store) == {"num_pending": 0, "num_failed": 0, "num_unsound": 0}


def test_summary_warns_of_pictures_in_the_folders_of_several_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = [hash_text(path) for path in PATHS]
    # Dogs 0 to 3 are copies of cats 0 to 3.
    contents[8:12] = contents[:4]
    store = make_store(tmp_path / "store", PATHS, contents=contents)
    pairs = [[f"train/cats/{number:02}.jpg", f"train/dogs/{number:02}.jpg"] for number in range(4)]
    assert list_conflicts(store.examples) == pairs
    (warning,) = list_warnings(store, capsys)
    assert warning.startswith("warning: 4 pictures ")
    assert [" = ".join(pair) in warning for pair in pairs] == [True, True, True, False]
    assert "1 more" in warning


def test_list_conflicts_lists_one_path_per_class() -> None:
    paths = ["dogs/b.jpg", "cats/c.jpg", "dogs/a.jpg", "cats/d.jpg", "owls/e.jpg", "owls/f.jpg"]
    contents = [b"1" * 32] * 4 + [b"2" * 32] * 2
    assert list_conflicts(map(make_example, paths, contents)) == [["cats/c.jpg", "dogs/a.jpg"]]


def test_summary_warns_of_leaks_and_missing_views(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contents = [hash_text(path) for path in PATHS]
    contents[16] = contents[0]
    store = add_views(
        make_store(tmp_path / "store", PATHS, contents=contents),
        {path: [1] for path in PATHS[:15] if "train" in path},
    )
    missing, leak = list_warnings(store, capsys, views=2)
    assert missing.startswith(f"warning: {store.path}: 1 view ")
    assert "--views 2" in missing
    assert leak.startswith("warning: 1 validation picture ")


@pytest.mark.parametrize("num_pending", [0, 3])
def test_check_extraction_without_features_raises_if_extraction_is_running_or_pictures_are_pending(
    tmp_path: Path, num_pending: int
) -> None:
    with FeatureWriter(tmp_path / "store", FINGERPRINT, Origin(SHAPE, "random", "", "")) as writer:
        writer.update_images([ImageRow(path, "cats", "train", 1, 1) for path in PATHS[:num_pending]], [])
        store = FeatureStore(tmp_path / "store")
        with raises(HeadstartError, where=store.path) as running:
            check_extraction(store)
        with raises(HeadstartError, where=store.path, got=running.value.got):
            split_store(store, TrainConfig(store.path, Path("run")))
        assert ("3" in running.value.got) == (num_pending == 3)
    store = FeatureStore(tmp_path / "store")
    if num_pending:
        with raises(HeadstartError, where=store.path, got=running.value.got) as stopped:
            check_extraction(store)
        # While a writer has the lock, the advice is to wait for it.
        assert stopped.value.advice != running.value.advice
    else:
        check_extraction(store)


def test_check_extraction_of_a_store_with_features_passes(two_classes: FeatureStore) -> None:
    with hold_write_lock(two_classes.path):
        check_extraction(two_classes)


def test_check_images_folder_of_another_folder_raises_with_both(tmp_path: Path) -> None:
    own, other = tmp_path / "a/pics", tmp_path / "b/pics"
    store = make_store(tmp_path / "store", PATHS, images_folder=str(own))
    with raises(HeadstartError, where=store.path) as caught:
        check_images_folder(store, other)
    assert str(other) in caught.value.expected
    assert str(own) in caught.value.got
    with raises(HeadstartError, where=store.path, got=caught.value.got):
        split_store(store, TrainConfig(store.path, Path("run"), images=other))
    for images in (own, tmp_path / "b/../a/pics", None):
        check_images_folder(store, images)
    check_images_folder(make_store(tmp_path / "unnamed", PATHS), other)


def test_warn_if_store_changed_warns_of_other_pictures_views_and_a_missing_store(
    own_store: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    store = FeatureStore(own_store)
    split, config = split_examples(store.examples, 0.2), TrainConfig(own_store, Path("run"), views=2)

    def count_warnings() -> int:
        warn_if_store_changed(store, split, config, quiet)
        lines = capsys.readouterr().err.splitlines()
        assert all(line.startswith("warning: ") and str(own_store) in line for line in lines)
        return len(lines)

    assert count_warnings() == 0
    add_views(store, {split.train[0].path: [1]})
    assert count_warnings() == 1
    store = FeatureStore(own_store)
    assert count_warnings() == 0
    add_picture(own_store)
    assert count_warnings() == 1
    shutil.rmtree(own_store)
    assert count_warnings() == 1
