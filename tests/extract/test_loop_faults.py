"""Faults in the extraction loop: finished batches are kept, no thread is left, and the next run computes the others."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import HeadstartError, StoreWriteError
from base.system import repeat_signal
from extract import pipeline
from extract.decoding.convert import Pixels
from extract.pipeline import BATCHES_WAITING
from extract.views import Prepared
from features import store_writer
from features.schema import ImageStatus
from features.shards.shard import ShardRef, write_shard
from features.store import FeatureStore
from tests.extract.mean_colours import MeanColours, read_colours, run_loop, write_pictures
from tests.interrupts import handle_interrupts
from tests.systems import HANG_S

pytestmark = pytest.mark.unit

NUM_PICTURES = 40


def find_threads() -> list[threading.Thread]:
    """Return the running threads of the loop; a signal during the start of a thread leaves one that never runs."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith(("read", "backbone"))]
    return [thread for thread in threads if thread.is_alive()]


class BrokenEngine(MeanColours):
    """Backbone whose engine fails for one picture."""

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        if 21 in batch[:, 0]:
            raise HeadstartError("--engine", "enough memory", "an error", "Give a smaller batch")
        return super().run(batch)


class BrokenReader(MeanColours):
    """Backbone whose views fail for one picture."""

    def prepare(self, pixels: Pixels, content_hash: bytes, views: Iterable[int]) -> Prepared:
        if pixels[0, 0, 0] == 21:
            raise RuntimeError("a fault")
        return super().prepare(pixels, content_hash, views)


def fill_disk(folder: Path, number: int, data: bytes, num_rows: int) -> ShardRef:
    """Write the first three shards only."""
    if number > 3:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return write_shard(folder, number, data, num_rows)


@pytest.mark.parametrize("num_streams", [1, 3])
@pytest.mark.parametrize(
    ("backbone", "error"),
    [(BrokenEngine, HeadstartError), (BrokenReader, RuntimeError), (MeanColours, StoreWriteError)],
)
def test_loop_after_a_fault_keeps_the_rows_before_it_and_leaves_no_thread(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_streams: int,
    backbone: type[MeanColours],
    error: type[Exception],
) -> None:
    rows = write_pictures(tmp_path / "pictures", range(NUM_PICTURES))
    if error is StoreWriteError:
        monkeypatch.setattr(store_writer, "write_shard", fill_disk)
    with pytest.raises(error):
        run_loop(tmp_path, rows, backbone(num_streams=num_streams))
    monkeypatch.undo()
    assert find_threads() == []
    store = FeatureStore(tmp_path / "store")
    num_kept = len(store.examples)
    assert [example.path for example in store.examples] == [row.path for row in rows[:num_kept]]
    assert (num_kept > 0) or backbone is BrokenReader
    assert num_kept <= 21
    again = MeanColours()
    run_loop(tmp_path, rows, again)
    assert sum(again.batches) == NUM_PICTURES - store.num_features
    assert read_colours(FeatureStore(tmp_path / "store")) == list(range(NUM_PICTURES))


class Endless(MeanColours):
    """Backbone that interrupts the main thread at one picture; this step and later ones last until `end` is set."""

    def __init__(self, *, is_engine: bool) -> None:
        super().__init__()
        self.end = threading.Event()
        self.was_waited_for = False
        self._is_engine = is_engine

    def _stop(self, number: float) -> None:
        if number == 8:
            # Unlike `_thread.interrupt_main`, it wakes a main thread that waits for a lock, as Control-C does.
            repeat_signal(signal.SIGINT)
        if number >= 8 and not self.end.wait(timeout=HANG_S):
            self.was_waited_for = True

    def prepare(self, pixels: Pixels, content_hash: bytes, views: Iterable[int]) -> Prepared:
        if not self._is_engine:
            self._stop(pixels[0, 0, 0])
        return super().prepare(pixels, content_hash, views)

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        if self._is_engine:
            self._stop(batch[0, 0, 0, 0])
        return super().run(batch)


@pytest.mark.parametrize("is_engine", [False, True])
def test_loop_interrupted_does_not_wait_for_large_pictures_or_slow_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_engine: bool
) -> None:
    monkeypatch.setattr(pipeline, "SECONDS_TO_FINISH", 0.2 if is_engine else HANG_S)
    rows, backbone = write_pictures(tmp_path / "pictures", range(NUM_PICTURES)), Endless(is_engine=is_engine)
    with handle_interrupts(), pytest.raises(KeyboardInterrupt):
        run_loop(tmp_path, rows, backbone)
    assert not backbone.was_waited_for
    store = FeatureStore(tmp_path / "store")
    assert store.num_features == sum(backbone.batches)
    assert not is_engine or store.num_features == 8
    assert sum(image.status is ImageStatus.DONE for image in store.images) == store.num_features
    backbone.end.set()
    for thread in find_threads():
        thread.join(timeout=HANG_S)
    assert find_threads() == []


def test_loop_runs_the_waiting_batches_while_a_shard_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = threading.Semaphore(0)
    num_waited = 0

    class Counting(MeanColours):
        def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
            finished.release()
            return super().run(batch)

    def write_slowly(folder: Path, number: int, data: bytes, num_rows: int) -> ShardRef:
        nonlocal num_waited
        if number == 1:
            # The shard has the rows of two batches; the second is full before the others are stored.
            for _ in range(2 + BATCHES_WAITING):
                assert finished.acquire(timeout=HANG_S)
                num_waited += 1
        return write_shard(folder, number, data, num_rows)

    monkeypatch.setattr(store_writer, "write_shard", write_slowly)
    run_loop(tmp_path, write_pictures(tmp_path / "pictures", range(NUM_PICTURES)), Counting())
    assert num_waited == 2 + BATCHES_WAITING
    assert read_colours(FeatureStore(tmp_path / "store")) == list(range(NUM_PICTURES))
