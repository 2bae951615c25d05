"""Extraction loop: order, interruptions, bad pictures, several streams, views and outputs."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.terminal import Console
from extract.config import ExtractConfig
from extract.counts import BadPicturesError
from extract.loop import ExtractionLoop
from extract.pipeline import BATCHES_WAITING, limit_batch
from features.catalog.tables import ImageRow
from features.schema import ImageStatus
from features.store import FeatureStore
from features.store_writer import FeatureWriter
from tests.errors import raises
from tests.extract.mean_colours import SHAPE, MeanColours, read_colours, run_loop, write_pictures
from tests.features.stores import make_fingerprint, make_origin
from tests.systems import HANG_S

pytestmark = pytest.mark.unit


def test_loop_stores_rows_in_the_order_of_the_pictures(tmp_path: Path) -> None:
    colours = list(range(10, 240, 10))
    backbone = MeanColours()
    loop = run_loop(tmp_path, write_pictures(tmp_path / "pictures", colours), backbone)
    store = FeatureStore(tmp_path / "store")
    places = [(example.path, example.shard, example.row) for example in store.examples]
    assert places == [(f"{number:03}.png", number // 6 + 1, number % 6) for number in range(23)]
    assert read_colours(store) == colours
    assert backbone.batches == [4, 4, 4, 4, 4, 3]
    assert (loop.counts.num_computed, loop.counts.unsound, loop.counts.failed) == (23, [], [])
    assert backbone.threads == {"backbone_0"}


def test_loop_computes_repeated_contents_once(tmp_path: Path) -> None:
    # The same picture in one batch, in the next batches while the first one is computed, and much later.
    colours = [1, 2, 1, 3, 1, 4, 5, 6, 2, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 1]
    backbone = MeanColours()
    run_loop(tmp_path, write_pictures(tmp_path / "pictures", colours), backbone)
    store = FeatureStore(tmp_path / "store")
    assert sum(backbone.batches) == store.num_features == 17
    assert read_colours(store) == colours


def test_loop_starts_the_next_batch_before_the_last_one_is_stored(tmp_path: Path) -> None:
    started = threading.Semaphore(0)
    stored: list[int] = []
    rows = write_pictures(tmp_path / "pictures", range(20))

    class Watched(FeatureWriter):
        def add_rows(self, *arguments: Any) -> None:
            # The backbone has started the second batch before the first one is stored.
            assert started.acquire(timeout=HANG_S)
            stored.append(len(stored))
            super().add_rows(*arguments)

    backbone = MeanColours(before=lambda number: started.release() if number else None)
    config = ExtractConfig(tmp_path / "pictures", tmp_path / "store", batch_size=4)
    with Watched(config.store, make_fingerprint(), make_origin(SHAPE)) as writer:
        writer.update_images(rows[:16], [])
        loop = ExtractionLoop(config, Console(), [writer], backbone)
        started.release()
        loop.run(rows[:16], max_bad=0)
    assert backbone.streams.num_streams + BATCHES_WAITING > 1
    assert stored == [0, 1, 2, 3]


def test_loop_interrupted_stores_exactly_the_finished_batches(tmp_path: Path) -> None:
    def interrupt(number: int) -> None:
        if number == 3:
            raise KeyboardInterrupt

    rows = write_pictures(tmp_path / "pictures", range(30))
    with pytest.raises(KeyboardInterrupt):
        run_loop(tmp_path, rows, MeanColours(before=interrupt))
    store = FeatureStore(tmp_path / "store")
    done = [image.path for image in store.images if image.status is ImageStatus.DONE]
    assert done == [row.path for row in rows[:12]]
    assert [example.path for example in store.examples] == done
    assert read_colours(store) == list(range(12))


def test_loop_with_bad_pictures_lists_them_in_order_and_stores_the_others(tmp_path: Path) -> None:
    rows = write_pictures(tmp_path / "pictures", range(14))
    for bad in (2, 3, 9):
        (tmp_path / "pictures" / rows[bad].path).write_bytes(b"no picture")
    loop = run_loop(tmp_path, rows, MeanColours(), max_bad=3)
    assert [failure["image"] for failure in loop.counts.failed] == ["002.png", "003.png", "009.png"]
    store = FeatureStore(tmp_path / "store")
    assert [example.path for example in store.examples] == [
        row.path for number, row in enumerate(rows) if number not in (2, 3, 9)
    ]


def test_loop_with_one_bad_picture_too_many_stops_and_keeps_the_others(tmp_path: Path) -> None:
    rows = write_pictures(tmp_path / "pictures", range(14))
    for bad in (2, 3, 9):
        (tmp_path / "pictures" / rows[bad].path).write_bytes(b"")
    with raises(BadPicturesError, where=tmp_path / "pictures") as caught:
        run_loop(tmp_path, rows, MeanColours(), max_bad=2)
    assert re.findall(r"\d+", caught.value.expected) == ["2"]
    assert caught.value.got.startswith("3")
    assert "009.png" in caught.value.got
    store = FeatureStore(tmp_path / "store")
    whole_batch = (0, 1, 4, 5, 6, 7, 8, 10, 11)
    assert [example.path for example in store.examples] == [f"{n:03}.png" for n in whole_batch]
    failed = {image.path: image.reason for image in store.images if image.status is ImageStatus.FAILED}
    assert sorted(failed) == [f"{n:03}.png" for n in (2, 3, 9)]
    assert all("empty" in reason for reason in failed.values())


class Overflowing(MeanColours):
    """Backbone that returns values beyond float16 for two pictures."""

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return [np.where((features == 3) | (features == 9), 1e6, features) for features in super().run(batch)]


@pytest.mark.parametrize("max_bad", [1, 2])
def test_loop_counts_unsound_features_as_bad_pictures_in_each_run(tmp_path: Path, max_bad: int) -> None:
    rows = write_pictures(tmp_path / "pictures", range(12))
    for _ in range(2):
        if max_bad == 2:
            assert run_loop(tmp_path, rows, Overflowing(), max_bad).counts.unsound == ["003.png", "009.png"]
        else:
            with raises(BadPicturesError, where=tmp_path / "store") as caught:
                run_loop(tmp_path, rows, Overflowing(), max_bad)
            assert caught.value.got.startswith("2")
            assert "009.png" in caught.value.got
    store = FeatureStore(tmp_path / "store")
    assert [found.image.path for found in store.list_unusable()] == ["003.png", "009.png"]
    assert (len(store.examples), store.num_features) == (10, 12)


def test_loop_bottleneck_is_the_slowest_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_pictures(tmp_path / "pictures", range(8))
    loop = run_loop(tmp_path, rows, MeanColours(before=lambda _: time.sleep(0.3)))
    assert loop.bottleneck == "the backbone"
    progress = capsys.readouterr().err
    assert "8/8" in progress
    assert loop.bottleneck in progress


# Several streams, views and outputs.


class SlowStart(MeanColours):
    """Backbone that finishes its first batch after the next two."""

    def __init__(self) -> None:
        super().__init__(num_streams=3)
        self._others = threading.Semaphore(0)
        self.finished: list[int] = []

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        first = int(batch[0, 0, 0, 0])
        if first == 0:
            assert self._others.acquire(timeout=HANG_S)
            assert self._others.acquire(timeout=HANG_S)
        features = super().run(batch)
        self.finished.append(first)
        self._others.release()
        return features


def test_loop_with_several_streams_keeps_the_order_if_the_first_batch_is_slow(tmp_path: Path) -> None:
    backbone = SlowStart()
    run_loop(tmp_path, write_pictures(tmp_path / "pictures", range(30)), backbone)
    assert backbone.finished.index(0) >= 2
    assert len(backbone.threads) > 1
    store = FeatureStore(tmp_path / "store")
    places = [(example.path, example.shard, example.row) for example in store.examples]
    assert places == [(f"{number:03}.png", number // 6 + 1, number % 6) for number in range(30)]
    assert read_colours(store) == list(range(30))


def test_loop_with_several_streams_starts_a_limited_number_of_batches(tmp_path: Path) -> None:
    rows = write_pictures(tmp_path / "pictures", range(48))
    backbone = MeanColours(num_streams=3)
    ahead: list[int] = []

    class Watched(FeatureWriter):
        def add_rows(self, *arguments: Any) -> None:
            time.sleep(0.01)  # time in which streams could start too many batches
            ahead.append(len(backbone.batches) - len(ahead))
            super().add_rows(*arguments)

    config = ExtractConfig(tmp_path / "pictures", tmp_path / "store", batch_size=4)
    with Watched(config.store, make_fingerprint(), make_origin(SHAPE)) as writer:
        ExtractionLoop(config, Console(), [writer], backbone).run(rows, max_bad=0)
    assert len(ahead) == 12
    assert max(ahead) <= backbone.streams.num_streams + BATCHES_WAITING


@pytest.mark.parametrize(
    ("num_left", "num_streams", "expected"),
    [(1000, 2, 32), (128, 2, 32), (127, 2, 32), (100, 2, 25), (33, 2, 9), (5, 2, 8), (200, 8, 13), (5, 1, 32)],
)
def test_limit_batch_towards_the_end_divides_the_rest_among_several_streams(
    num_left: int, num_streams: int, expected: int
) -> None:
    assert limit_batch(32, num_left, num_streams) == expected
    assert limit_batch(4, num_left, num_streams) == 4


def test_loop_with_several_streams_interrupted_stores_exactly_the_batches_before(tmp_path: Path) -> None:
    class Interrupted(MeanColours):
        def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
            if 12 in batch[:, 0]:
                raise KeyboardInterrupt
            return super().run(batch)

    rows = write_pictures(tmp_path / "pictures", range(40))
    with pytest.raises(KeyboardInterrupt):
        run_loop(tmp_path, rows, Interrupted(num_streams=3))
    store = FeatureStore(tmp_path / "store")
    assert [example.path for example in store.examples] == [row.path for row in rows[:12]]
    assert store.num_features == 12
    assert read_colours(store) == list(range(12))


def test_loop_with_views_stores_all_views_and_counts_pictures(tmp_path: Path) -> None:
    rows = write_pictures(tmp_path / "pictures", range(9))
    rows[2:4] = [row._replace(split="validation") for row in rows[2:4]]
    backbone = MeanColours()
    loop = run_loop(tmp_path, rows, backbone, views=3)
    store = FeatureStore(tmp_path / "store")
    assert backbone.batches == [6, 5, 6, 6], "a group of pictures is full once it has a batch of views"
    assert (loop.counts.num_computed, store.num_features) == (9, 7 * 3 + 2)
    for colour, example in enumerate(store.examples):
        views = store.list_views(example, 3)
        assert [view.view for view in views] == ([0] if colour in (2, 3) else [0, 1, 2])
        expected = [np.float16(colour + 1000 * view.view) for view in views]
        np.testing.assert_array_equal(store.read(views)[:, 0, 0, 0], expected)


@pytest.mark.parametrize("order", [["validation", "train"], ["train", "validation"]])
def test_loop_content_in_training_and_validation_gets_all_views(tmp_path: Path, order: list[str]) -> None:
    rows = write_pictures(tmp_path / "pictures", [7, *range(20, 32), 7])
    rows[0], rows[-1] = rows[0]._replace(split=order[0]), rows[-1]._replace(split=order[1])
    backbone = MeanColours()
    run_loop(tmp_path, rows, backbone, views=3)
    store = FeatureStore(tmp_path / "store")
    assert sum(backbone.batches) == store.num_features == 13 * 3
    assert [view.view for view in store.list_views(store.examples[0], 3)] == [0, 1, 2]


def test_loop_with_two_writers_stores_in_each_only_missing_features_of_its_output(tmp_path: Path) -> None:
    rows = write_pictures(tmp_path / "pictures", range(10))
    config = ExtractConfig(tmp_path / "pictures", tmp_path / "stores", batch_size=4)

    def run(rows: Sequence[ImageRow], names: Sequence[str]) -> MeanColours:
        backbone = MeanColours(num_streams=2, num_outputs=len(names))
        with ExitStack() as stack:
            origin = make_origin(SHAPE)
            writers = [
                stack.enter_context(FeatureWriter(tmp_path / name, make_fingerprint(), origin, rows_per_shard=3))
                for name in names
            ]
            ExtractionLoop(config, Console(), writers, backbone).run(rows, max_bad=0)
        return backbone

    run(rows[:6], ["one"])
    assert sum(run(rows, ["one", "other"]).batches) == 10
    assert sum(run(rows, ["one", "other"]).batches) == 0
    for name, sign in (("one", 1), ("other", -1)):
        store = FeatureStore(tmp_path / name)
        assert [example.path for example in store.examples] == [row.path for row in rows]
        assert sum(shard.num_rows for shard in store.shards) == store.num_features == 10
        assert read_colours(store) == [sign * colour for colour in range(10)]
