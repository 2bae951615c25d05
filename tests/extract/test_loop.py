"""The loop: rows keep their order while reading, the backbone and the disk overlap."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from extract.config import ExtractConfig
from extract.loop import BATCHES_AHEAD, ExtractionLoop
from extract.pixels import Pixels
from features.console import Console
from features.schema import ImageStatus, Origin
from features.store import FeatureStore
from features.tables import ImageRow
from features.writer import FeatureWriter
from tests.pictures import encode
from tests.train_head.made import FINGERPRINT

SHAPE = (1, 1, 3)


class Means:
    """A backbone whose features are a picture's mean colours; it notes what it was given, and in which thread."""

    def __init__(self, before: Callable[[int], None] = lambda _: None) -> None:
        self.batches: list[int] = []
        self.threads: set[str] = set()
        self._before = before

    @property
    def prepare(self) -> Callable[[Pixels], Any]:
        return lambda pixels: pixels.mean(axis=(0, 1))

    def run(self, images: list[Any]) -> NDArray[np.float32]:
        self.threads.add(threading.current_thread().name)
        self._before(len(self.batches))
        self.batches.append(len(images))
        return np.stack(images).astype(np.float32).reshape(-1, *SHAPE)


def write_pictures(folder: Path, colours: Sequence[int]) -> list[ImageRow]:
    """Writes a picture of each colour, and returns rows of the catalog in that order."""
    folder.mkdir()
    rows = []
    for number, colour in enumerate(colours):
        data = encode(Image.new("RGB", (4, 5), (colour,) * 3))
        (folder / f"{number:03}.png").write_bytes(data)
        rows.append(ImageRow(f"{number:03}.png", "cats", "", len(data), 1))
    return rows


def run_loop(tmp_path: Path, rows: Sequence[ImageRow], backbone: Means, **options: Any) -> ExtractionLoop:
    config = ExtractConfig(tmp_path / "pictures", tmp_path / "store", batch_size=4, threads=2, **options)
    with FeatureWriter(config.store, FINGERPRINT, Origin(SHAPE, "random", "", ""), rows_per_shard=6) as writer:
        writer.sync_images(rows, [])
        writer.write_meta("images_folder", "")
        loop = ExtractionLoop(config, Console(), writer, backbone)
        loop.run(rows)
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
    assert (loop.num_computed, loop.num_unsound, loop.failed) == (23, 0, [])
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
        writer.sync_images(rows[:16], [])
        loop = ExtractionLoop(config, Console(), writer, backbone)
        given.release()
        loop.run(rows[:16])
    assert BATCHES_AHEAD > 1
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
    loop = run_loop(tmp_path, rows, Means())
    assert [failure["image"] for failure in loop.failed] == ["002.png", "003.png", "009.png"]
    store = FeatureStore(tmp_path / "store")
    assert [example.path for example in store.examples] == [
        row.path for number, row in enumerate(rows) if number not in (2, 3, 9)
    ]


def test_loop_names_what_the_others_wait_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_pictures(tmp_path / "pictures", range(8))
    loop = run_loop(tmp_path, rows, Means(before=lambda _: time.sleep(0.3)))
    assert loop.bottleneck == "the backbone"
    assert "extract: 8/8 pictures" in (said := capsys.readouterr().err)
    assert "limited by the backbone" in said
