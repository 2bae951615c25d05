"""Interrupted and killed extractions: computed features are kept, and the next run computes the others."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from base.errors import FeatureStoreError
from base.terminal import Console
from extract.config import ExtractConfig
from extract.loop import ExtractionLoop
from extract.run import extract_features
from features.catalog.tables import ImageRow
from features.maintenance.recover import inspect_orphan, list_shard_files
from features.shards.shard import parse_name
from features.store import FeatureStore
from features.store_writer import FeatureWriter
from tests.extract.mean_colours import MeanColours, run_loop, write_pictures
from tests.pictures import fill_folder
from tests.systems import HANG_S

ROOT = Path(__file__).parents[2]
NUM_PICTURES, NUM_VIEWS, ROWS_PER_SHARD = 40, 2, 8
OPTIONS = ["--weights", "random", "--image-size", "75", "--cut", "mixed0", "--views", str(NUM_VIEWS)]
OPTIONS += ["--batch-size", "4", "--json", "-q"]
PROGRAM = """
import os, runpy, sys
from extract import cut_backbone
from features import store_writer

build_engine, runs = cut_backbone.build_engine, []
number, at, num_rows = (int(sys.argv.pop(1)) for _ in range(3))


class Interrupting:
    def __init__(self, engine):
        self.engine = engine

    def run(self, batch):
        runs.append(len(batch))
        if len(runs) == at:
            os.kill(os.getpid(), number)
        return self.engine.run(batch)


cut_backbone.build_engine = lambda *given: Interrupting(build_engine(*given))
store_writer.count_rows_per_shard = lambda shape: num_rows
runpy.run_module("extract", run_name="__main__", alter_sys=True)
"""
"""`python -m extract` that sends itself a signal at a run of the engine; small shards are committed early."""


@dataclass(frozen=True)
class Stopped:
    """Result of a process that was stopped by a signal."""

    status: int
    out: str
    err: str
    store: Path

    @property
    def num_complete(self) -> int:
        """Number of pictures with all views in shards; a shard may be written and not yet in the catalog."""
        headers = [inspect_orphan(path, None)[1] for path in list_shard_files(self.store) if parse_name(path.name)]
        views = [key.content_hash for header in headers for key in header.keys]
        return sum(views.count(content) == NUM_VIEWS for content in set(views))


def configure(images: Path, store: Path, views: int = 1) -> ExtractConfig:
    return ExtractConfig(images, store, weights="random", image_size=75, cut="mixed0", batch_size=4, views=views)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 40 pictures without splits."""
    folder = tmp_path_factory.mktemp("many")
    fill_folder(folder, {"cats": NUM_PICTURES // 2, "dogs": NUM_PICTURES // 2})
    return folder


@pytest.fixture(scope="module")
def stopped(many: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[signal.Signals, Stopped]:
    """Two processes: one terminated in its first batches, one killed after it committed shards."""
    folder = tmp_path_factory.mktemp("stopped")
    processes = {}
    # The first run of the engine is on zeros, two are compared with plain Keras, the fourth is on the first batch.
    for number, at in ((signal.SIGTERM, 5), (signal.SIGKILL, 14)):
        signals = [str(int(number)), str(at), str(ROWS_PER_SHARD)]
        paths = ["--images", str(many), "--store", str(folder / number.name)]
        processes[number] = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *signals, *paths, *OPTIONS],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    results = {}
    for number, process in processes.items():
        with process:
            out, err = process.communicate(timeout=HANG_S)
        results[number] = Stopped(process.returncode, out, err, folder / number.name)
    return results


@pytest.fixture(scope="module")
def uninterrupted(many: Path, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> FeatureStore:
    """Store of an extraction in this process that nothing interrupted."""
    store = tmp_path_factory.mktemp("uninterrupted") / "store"
    assert extract_features(configure(many, store, NUM_VIEWS), quiet).computed == NUM_PICTURES
    return FeatureStore(store)


def assert_same_features(store: FeatureStore, expected: FeatureStore) -> None:
    """Assert that the examples of a store have the same views, with the same bits, as in another store."""
    others = {example.path: example for example in expected.examples}
    for example in store.examples:
        views = store.list_views(example, NUM_VIEWS)
        assert len(views) == NUM_VIEWS
        again = expected.read(expected.list_views(others[example.path], NUM_VIEWS))
        np.testing.assert_array_equal(store.read(views), again)


def test_extract_terminated_in_its_first_batches_keeps_them(stopped: dict[signal.Signals, Stopped]) -> None:
    terminated = stopped[signal.SIGTERM]
    num_kept = len(FeatureStore(terminated.store).examples)
    assert terminated.status == 128 + signal.SIGTERM
    assert json.loads(terminated.out) == {"error": "interrupted"}
    assert 0 < num_kept < NUM_PICTURES
    assert f"{num_kept} of {NUM_PICTURES}" in terminated.err


def test_extract_killed_keeps_the_committed_shards(stopped: dict[signal.Signals, Stopped]) -> None:
    killed = stopped[signal.SIGKILL]
    assert killed.status == -signal.SIGKILL
    assert 0 < FeatureStore(killed.store).num_features < NUM_PICTURES * NUM_VIEWS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_extract_after_a_stopped_process_computes_the_others_to_the_same_bits(
    many: Path,
    stopped: dict[signal.Signals, Stopped],
    uninterrupted: FeatureStore,
    quiet: Console,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    num_complete = stopped[number].num_complete
    left = FeatureStore(shutil.copytree(stopped[number].store, tmp_path / "store"))
    # A signal after the features of a batch are stored, and before its pictures are recorded, leaves these pictures
    # pending.
    assert left.num_pending == NUM_PICTURES - len(left.examples)
    assert 0 <= num_complete - len(left.examples) <= ROWS_PER_SHARD
    assert_same_features(left, uninterrupted)

    result = extract_features(configure(many, left.path, NUM_VIEWS), quiet)

    assert (result.computed, result.reused) == (NUM_PICTURES - num_complete, num_complete)
    after = FeatureStore(left.path)
    assert [example.path for example in after.examples] == [example.path for example in uninterrupted.examples]
    assert (after.num_pending, after.num_features) == (0, NUM_PICTURES * NUM_VIEWS)
    assert_same_features(after, uninterrupted)


class InterruptedPictures(list[ImageRow]):
    """Pictures whose second iteration is interrupted once the backbone has started."""

    def __init__(self, rows: Sequence[ImageRow], has_started: threading.Event) -> None:
        super().__init__(rows)
        self._has_started, self._num_iterations = has_started, 0

    def __iter__(self) -> Iterator[ImageRow]:
        self._num_iterations += 1
        for number, row in enumerate(super().__iter__()):
            # The catalog iterates first.
            if number == 18 and self._num_iterations == 2:
                assert self._has_started.wait(timeout=HANG_S)
                raise KeyboardInterrupt
            yield row


@pytest.mark.unit
def test_loop_interrupted_before_its_first_batch_is_stored_keeps_the_started_batches(tmp_path: Path) -> None:
    rows, has_started = write_pictures(tmp_path / "pictures", range(30)), threading.Event()
    backbone = MeanColours(before=lambda _: has_started.set())
    with pytest.raises(KeyboardInterrupt):
        run_loop(tmp_path, InterruptedPictures(rows, has_started), backbone)
    store = FeatureStore(tmp_path / "store")
    assert store.num_features == sum(backbone.batches) > 0
    assert [example.path for example in store.examples] == [row.path for row in rows[: store.num_features]]
    again = MeanColours()
    run_loop(tmp_path, rows, again)
    assert sum(again.batches) == 30 - store.num_features


@pytest.mark.unit
def test_loop_interrupted_while_it_stores_a_batch_stores_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_image, seen = FeatureWriter.add_image, []

    def interrupt_once(self: FeatureWriter, image: ImageRow) -> None:
        seen.append(image.path)
        if len(seen) == 6:
            raise KeyboardInterrupt
        add_image(self, image)

    rows = write_pictures(tmp_path / "pictures", range(20))
    monkeypatch.setattr(FeatureWriter, "add_image", interrupt_once)
    with pytest.raises(KeyboardInterrupt):
        run_loop(tmp_path, rows, MeanColours())
    store = FeatureStore(tmp_path / "store")
    assert len(store.examples) == store.num_features >= 8


def test_extract_after_a_process_killed_while_it_created_the_catalog_computes_everything(
    tmp_path: Path, quiet: Console
) -> None:
    pictures, store = tmp_path / "pictures", tmp_path / "store"
    fill_folder(pictures, {"cats": 2, "dogs": 2})
    (store / "shards").mkdir(parents=True)
    (store / "LOCK").touch()
    (store / "catalog.sqlite").touch()
    with pytest.raises(FeatureStoreError):
        FeatureStore(store)
    assert extract_features(configure(pictures, store), quiet).computed == 4
    assert len(FeatureStore(store).examples) == 4


@pytest.mark.parametrize("rehash", [True, False])
def test_extract_interrupted_before_it_reads_keeps_every_example(
    many: Path,
    uninterrupted: FeatureStore,
    tmp_path: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    rehash: bool,
) -> None:
    pictures = shutil.copytree(many, tmp_path / "pictures")
    store = shutil.copytree(uninterrupted.path, tmp_path / "store")
    config = replace(configure(pictures, store, NUM_VIEWS), rehash=rehash)
    for path in pictures.rglob("*.jpg"):
        os.utime(path, (1, 1))  # as if the files had been copied

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ExtractionLoop, "run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            extract_features(config, quiet)
    after = FeatureStore(store)
    assert (after.examples, after.num_pending) == (uninterrupted.examples, 0)
    assert extract_features(config, quiet).computed == 0
