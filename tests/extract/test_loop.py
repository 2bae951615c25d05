"""The loop: rows keep their order while reading, the backbone and the disk overlap."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from base.terminal import Console
from extract.config import ExtractConfig
from extract.decode import Pixels
from extract.engines import Streams
from extract.loop import BATCHES_WAITING, BadPicturesError, ExtractionLoop
from extract.views import Prepared
from features.catalog.tables import ImageRow
from features.schema import ImageStatus, Origin
from features.store import FeatureStore
from features.writer import FeatureWriter
from tests.pictures import encode
from tests.train_head.synthetic import FINGERPRINT

SHAPE = (1, 1, 3)


class Means:
    """A backbone whose features are a picture's mean colours; it notes what it was given, and in which thread.

    A view adds 1,000 times its number. The second output is the first one negated.
    """

    def __init__(
        self, before: Callable[[int], None] = lambda _: None, num_streams: int = 1, num_outputs: int = 1
    ) -> None:
        self.streams = Streams(num_cores=2, num_streams=num_streams, num_threads=1)
        self.batches: list[int] = []
        self.threads: set[str] = set()
        self._before, self._num_outputs = before, num_outputs
        self._lock = threading.Lock()

    def prepare(self, pixels: Pixels, content_hash: bytes, views: Iterable[int]) -> Prepared:
        assert len(content_hash) == 32
        return {view: pixels.mean(axis=(0, 1), dtype=np.float32) + np.float32(1000 * view) for view in views}

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        with self._lock:
            self.threads.add(threading.current_thread().name)
            number = len(self.batches)
            self.batches.append(len(batch))
        self._before(number)
        features = batch.reshape(-1, *SHAPE)
        return [features, -features][: self._num_outputs]


def write_pictures(folder: Path, colours: Sequence[int]) -> list[ImageRow]:
    """Writes a picture of each colour, and returns rows of the catalog in that order."""
    folder.mkdir()
    rows = []
    for number, colour in enumerate(colours):
        data = encode(Image.new("RGB", (4, 5), (colour,) * 3))
        (folder / f"{number:03}.png").write_bytes(data)
        rows.append(ImageRow(f"{number:03}.png", "cats", "", len(data), 1))
    return rows


def run_loop(
    tmp_path: Path, rows: Sequence[ImageRow], backbone: Means, max_bad: int = 0, **options: Any
) -> ExtractionLoop:
    config = ExtractConfig(tmp_path / "pictures", tmp_path / "store", batch_size=4, **options)
    with FeatureWriter(config.store, FINGERPRINT, Origin(SHAPE, "random", "", ""), rows_per_shard=6) as writer:
        writer.update_images(rows, [])
        writer.write_meta("images_folder", "")
        loop = ExtractionLoop(config, Console(), [writer], backbone)
        loop.run(rows, max_bad)
    return loop


def test_loop_rows_stand_in_the_shards_in_the_order_of_the_pictures(tmp_path: Path) -> None:
    colours = list(range(10, 240, 10))
    backbone = Means()
    loop = run_loop(tmp_path, write_pictures(tmp_path / "pictures", colours), backbone)
    store = FeatureStore(tmp_path / "store")
    places = [(example.path, example.shard, example.row) for example in store.examples]
    assert places == [(f"{number:03}.png", number // 6 + 1, number % 6) for number in range(23)]
    np.testing.assert_array_equal(store.read(store.examples)[:, 0, 0, 0], colours)
    assert backbone.batches == [4, 4, 4, 4, 4, 3]
    assert (loop.num_computed, loop.unsound, loop.failed) == (23, [], [])
    assert backbone.threads == {"backbone_0"}


def test_loop_content_that_is_on_its_way_through_the_backbone_is_not_computed_again(tmp_path: Path) -> None:
    # The same picture in its own batch, in the next ones while the first is still on its way, and much later.
    colours = [1, 2, 1, 3, 1, 4, 5, 6, 2, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 1]
    backbone = Means()
    run_loop(tmp_path, write_pictures(tmp_path / "pictures", colours), backbone)
    store = FeatureStore(tmp_path / "store")
    assert sum(backbone.batches) == store.num_features == 17
    np.testing.assert_array_equal(store.read(store.examples)[:, 0, 0, 0], colours)


def test_loop_gives_the_backbone_its_next_batch_before_the_last_one_is_stored(tmp_path: Path) -> None:
    given = threading.Semaphore(0)
    stored: list[int] = []
    rows = write_pictures(tmp_path / "pictures", range(20))

    class Watched(FeatureWriter):
        def add_features(self, *arguments: Any) -> None:
            # The backbone has begun with the second batch although the first is not stored yet.
            assert given.acquire(timeout=30)
            stored.append(len(stored))
            super().add_features(*arguments)

    backbone = Means(before=lambda number: given.release() if number else None)
    config = ExtractConfig(tmp_path / "pictures", tmp_path / "store", batch_size=4)
    with Watched(config.store, FINGERPRINT, Origin(SHAPE, "random", "", "")) as writer:
        writer.update_images(rows[:16], [])
        loop = ExtractionLoop(config, Console(), [writer], backbone)
        given.release()
        loop.run(rows[:16], max_bad=0)
    assert backbone.streams.num_streams + BATCHES_WAITING > 1
    assert stored == [0, 1, 2, 3]


def test_loop_that_is_interrupted_keeps_what_was_finished_and_nothing_else(tmp_path: Path) -> None:
    def interrupt(number: int) -> None:
        if number == 3:
            raise KeyboardInterrupt

    rows = write_pictures(tmp_path / "pictures", range(30))
    with pytest.raises(KeyboardInterrupt):
        run_loop(tmp_path, rows, Means(before=interrupt))
    store = FeatureStore(tmp_path / "store")
    done = [image.path for image in store.images if image.status is ImageStatus.DONE]
    assert done == [row.path for row in rows[:12]]
    assert [example.path for example in store.examples] == done
    np.testing.assert_array_equal(store.read(store.examples)[:, 0, 0, 0], range(12))


def test_loop_with_bad_pictures_lists_them_in_order_and_stores_the_others(tmp_path: Path) -> None:
    rows = write_pictures(tmp_path / "pictures", range(14))
    for bad in (2, 3, 9):
        (tmp_path / "pictures" / rows[bad].path).write_bytes(b"no picture")
    loop = run_loop(tmp_path, rows, Means(), max_bad=3)
    assert [failure["image"] for failure in loop.failed] == ["002.png", "003.png", "009.png"]
    store = FeatureStore(tmp_path / "store")
    assert [example.path for example in store.examples] == [
        row.path for number, row in enumerate(rows) if number not in (2, 3, 9)
    ]


def test_loop_with_one_bad_picture_more_than_allowed_stops_there_and_keeps_the_others(tmp_path: Path) -> None:
    rows = write_pictures(tmp_path / "pictures", range(14))
    for bad in (2, 3, 9):
        (tmp_path / "pictures" / rows[bad].path).write_bytes(b"")
    with pytest.raises(BadPicturesError) as raised:
        run_loop(tmp_path, rows, Means(), max_bad=2)
    assert str(raised.value) == (
        f"{tmp_path / 'pictures'}: expected at most 2 bad pictures, "
        "got 3, the last of them 009.png: an empty file. "
        "Repair or move them, or allow a larger share with --max-bad (MAX_BAD=); what is extracted is kept."
    )
    store = FeatureStore(tmp_path / "store")
    whole_batch = (0, 1, 4, 5, 6, 7, 8, 10, 11)
    assert [example.path for example in store.examples] == [f"{n:03}.png" for n in whole_batch]
    failed = {image.path: image.reason for image in store.images if image.status is ImageStatus.FAILED}
    assert failed == {f"{n:03}.png": "an empty file" for n in (2, 3, 9)}


class Overflowing(Means):
    """A backbone whose features of two pictures are beyond float16."""

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return [np.where((features == 3) | (features == 9), 1e6, features) for features in super().run(batch)]


@pytest.mark.parametrize("max_bad", [1, 2])
def test_loop_counts_unsound_features_as_bad_pictures_in_the_first_run_and_in_the_next(
    tmp_path: Path, max_bad: int
) -> None:
    rows = write_pictures(tmp_path / "pictures", range(12))
    for _ in range(2):
        if max_bad == 2:
            assert run_loop(tmp_path, rows, Overflowing(), max_bad).unsound == ["003.png", "009.png"]
        else:
            with pytest.raises(BadPicturesError) as raised:
                run_loop(tmp_path, rows, Overflowing(), max_bad)
            assert raised.value.got == "2, the last of them 009.png"
    store = FeatureStore(tmp_path / "store")
    assert [found.image.path for found in store.list_unusable()] == ["003.png", "009.png"]
    assert (len(store.examples), store.num_features) == (10, 12)


def test_loop_names_what_the_others_wait_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_pictures(tmp_path / "pictures", range(8))
    loop = run_loop(tmp_path, rows, Means(before=lambda _: time.sleep(0.3)))
    assert loop.bottleneck == "the backbone"
    assert "extract: 8/8 pictures" in (said := capsys.readouterr().err)
    assert "limited by the backbone" in said


# Several streams, views and outputs.


class SlowStart(Means):
    """Its first batch comes back only after the next two."""

    def __init__(self) -> None:
        super().__init__(num_streams=3)
        self._others = threading.Semaphore(0)
        self.finished: list[int] = []

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        first = int(batch[0, 0])
        if first == 0:
            assert self._others.acquire(timeout=30)
            assert self._others.acquire(timeout=30)
        features = super().run(batch)
        self.finished.append(first)
        self._others.release()
        return features


def test_loop_of_several_streams_keeps_the_order_where_the_first_batch_is_the_last_to_come_back(
    tmp_path: Path,
) -> None:
    backbone = SlowStart()
    run_loop(tmp_path, write_pictures(tmp_path / "pictures", range(30)), backbone)
    assert backbone.finished.index(0) >= 2
    assert len(backbone.threads) > 1
    store = FeatureStore(tmp_path / "store")
    places = [(example.path, example.shard, example.row) for example in store.examples]
    assert places == [(f"{number:03}.png", number // 6 + 1, number % 6) for number in range(30)]
    np.testing.assert_array_equal(store.read(store.examples)[:, 0, 0, 0], range(30))


def test_loop_of_several_streams_starts_no_more_batches_than_it_may(tmp_path: Path) -> None:
    rows = write_pictures(tmp_path / "pictures", range(48))
    backbone = Means(num_streams=3)
    ahead: list[int] = []

    class Watched(FeatureWriter):
        def add_features(self, *arguments: Any) -> None:
            time.sleep(0.02)  # for streams that would go too far ahead
            ahead.append(len(backbone.batches) - len(ahead))
            super().add_features(*arguments)

    config = ExtractConfig(tmp_path / "pictures", tmp_path / "store", batch_size=4)
    with Watched(config.store, FINGERPRINT, Origin(SHAPE, "random", "", "")) as writer:
        ExtractionLoop(config, Console(), [writer], backbone).run(rows, max_bad=0)
    assert len(ahead) == 12
    assert 1 < max(ahead) <= backbone.streams.num_streams + BATCHES_WAITING


def test_loop_of_several_streams_that_is_interrupted_keeps_what_stood_before_and_nothing_else(tmp_path: Path) -> None:
    class Interrupted(Means):
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
    np.testing.assert_array_equal(store.read(store.examples)[:, 0, 0, 0], range(12))


def test_loop_with_views_stores_each_of_them_and_counts_pictures(tmp_path: Path) -> None:
    rows = write_pictures(tmp_path / "pictures", range(9))
    rows[2:4] = [row._replace(split="validation") for row in rows[2:4]]
    backbone = Means(num_streams=2)
    loop = run_loop(tmp_path, rows, backbone, views=3)
    store = FeatureStore(tmp_path / "store")
    assert backbone.batches == [6, 5, 6, 6], "pictures go together, until they have a batch of views"
    assert (loop.num_computed, store.num_features) == (9, 7 * 3 + 2)
    for colour, example in enumerate(store.examples):
        views = store.list_views(example, 3)
        assert [view.view for view in views] == ([0] if colour in (2, 3) else [0, 1, 2])
        expected = [np.float16(colour + 1000 * view.view) for view in views]
        np.testing.assert_array_equal(store.read(views)[:, 0, 0, 0], expected)


@pytest.mark.parametrize("order", [["validation", "train"], ["train", "validation"]])
def test_loop_content_that_validates_and_trains_has_the_views_of_both(tmp_path: Path, order: list[str]) -> None:
    rows = write_pictures(tmp_path / "pictures", [7, *range(20, 32), 7])
    rows[0], rows[-1] = rows[0]._replace(split=order[0]), rows[-1]._replace(split=order[1])
    backbone = Means()
    run_loop(tmp_path, rows, backbone, views=3)
    store = FeatureStore(tmp_path / "store")
    assert sum(backbone.batches) == store.num_features == 13 * 3
    assert [view.view for view in store.list_views(store.examples[0], 3)] == [0, 1, 2]


def test_loop_with_two_writers_gives_each_its_output_and_only_what_it_lacks(tmp_path: Path) -> None:
    rows = write_pictures(tmp_path / "pictures", range(10))
    config = ExtractConfig(tmp_path / "pictures", tmp_path / "stores", batch_size=4)

    def run(rows: Sequence[ImageRow], names: Sequence[str]) -> Means:
        backbone = Means(num_streams=2, num_outputs=len(names))
        with ExitStack() as stack:
            origin = Origin(SHAPE, "random", "", "")
            writers = [
                stack.enter_context(FeatureWriter(tmp_path / name, FINGERPRINT, origin, rows_per_shard=3))
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
        np.testing.assert_array_equal(store.read(store.examples)[:, 0, 0, 0], sign * np.arange(10))
