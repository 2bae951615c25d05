"""A run that is interrupted keeps every feature that was computed, and the next one computes the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from base.errors import FeatureStoreError
from base.terminal import Console
from extract.config import ExtractConfig
from extract.loop import ExtractionLoop
from extract.run import extract_features
from features.catalog.tables import ImageRow
from features.store import FeatureStore
from features.writer import FeatureWriter
from tests.extract.test_loop import Means, run_loop, write_pictures
from tests.pictures import fill_folder

ROOT = Path(__file__).parents[2]
NUM_PICTURES = 40
COMMAND = """
import os, sys
from extract import backbone
from extract.__main__ import extract
from extract.config import ExtractConfig
from base.command_line import run_app

build_engine, number, at, runs = backbone.build_engine, int(sys.argv.pop(1)), int(sys.argv.pop(1)), []


class Interrupting:
    def __init__(self, engine):
        self.engine = engine

    def run(self, batch):
        runs.append(len(batch))
        if len(runs) == at:
            os.kill(os.getpid(), number)
        return self.engine.run(batch)


backbone.build_engine = lambda *given: Interrupting(build_engine(*given))
run_app(extract, ExtractConfig, "python -m extract")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_extract_interrupted_in_its_first_batches_keeps_them_and_the_next_run_computes_the_rest(
    tmp_path: Path, quiet: Console, number: signal.Signals
) -> None:
    pictures, store = tmp_path / "pictures", tmp_path / "store"
    fill_folder(pictures, {"cats": NUM_PICTURES // 2, "dogs": NUM_PICTURES // 2})
    options = ["--images", str(pictures), "--store", str(store), "--weights", "random", "--image-size", "75"]
    options += ["--cut", "mixed0", "--batch-size", "4", "-q"]
    # The first run of the engine is on noise, the second on the first batch.
    command = [sys.executable, "-c", COMMAND, str(int(number)), "3", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode != 0
    kept = len(FeatureStore(store).examples)
    assert 0 < kept < NUM_PICTURES
    assert f"{kept} of {NUM_PICTURES} pictures are extracted, and kept" in done.stderr
    config = ExtractConfig(pictures, store, weights="random", image_size=75, cut="mixed0", batch_size=4)
    result = extract_features(config, quiet)
    assert (result.computed, result.reused) == (NUM_PICTURES - kept, kept)


class Interrupted(list[ImageRow]):
    """Pictures that are interrupted once the backbone has begun with the first of them."""

    has_begun = threading.Event()
    num_times = 0

    def __iter__(self) -> Iterator[ImageRow]:
        self.num_times += 1
        for number, row in enumerate(super().__iter__()):
            # They are gone through once before, by the catalog.
            if number == 18 and self.num_times == 2:
                assert self.has_begun.wait(timeout=30)
                raise KeyboardInterrupt
            yield row


def test_loop_interrupted_before_its_first_batch_is_stored_stores_what_the_backbone_has_begun(tmp_path: Path) -> None:
    rows = write_pictures(tmp_path / "pictures", range(30))
    backbone = Means(before=lambda _: Interrupted.has_begun.set())
    with pytest.raises(KeyboardInterrupt):
        run_loop(tmp_path, Interrupted(rows), backbone)
    store = FeatureStore(tmp_path / "store")
    assert store.num_features == sum(backbone.batches) > 0
    assert [example.path for example in store.examples] == [row.path for row in rows[: store.num_features]]
    again = Means()
    run_loop(tmp_path, rows, again)
    assert sum(again.batches) == 30 - store.num_features


def test_loop_interrupted_while_a_batch_is_stored_stores_it_once(
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
        run_loop(tmp_path, rows, Means())
    store = FeatureStore(tmp_path / "store")
    assert len(store.examples) == store.num_features >= 8


def test_extract_after_a_first_run_that_was_killed_while_the_catalog_was_made_simply_goes_on(
    tmp_path: Path, quiet: Console
) -> None:
    pictures, store = tmp_path / "pictures", tmp_path / "store"
    fill_folder(pictures, {"cats": 2, "dogs": 2})
    (store / "shards").mkdir(parents=True)
    (store / "LOCK").touch()
    (store / "catalog.sqlite").touch()
    with pytest.raises(FeatureStoreError):
        FeatureStore(store)
    config = ExtractConfig(pictures, store, weights="random", image_size=75, cut="mixed0")
    assert extract_features(config, quiet).computed == 4
    assert len(FeatureStore(store).examples) == 4


@pytest.mark.parametrize("rehash", [True, False])
def test_extract_interrupted_before_anything_is_read_leaves_every_example(
    pictures: Path, store: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch, rehash: bool
) -> None:
    config = ExtractConfig(pictures, store, weights="random", image_size=75, rehash=rehash)
    for path in pictures.rglob("*.jpg"):
        os.utime(path, (1, 1))  # as a copy does
    before = FeatureStore(store).examples

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    run = ExtractionLoop.run
    monkeypatch.setattr(ExtractionLoop, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract_features(config, quiet)
    monkeypatch.setattr(ExtractionLoop, "run", run)
    after = FeatureStore(store)
    assert (after.examples, after.num_pending) == (before, 0)
    assert extract_features(config, quiet).computed == 0
