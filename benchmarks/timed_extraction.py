"""Process of a worker: the backbone is built once, and measured on request, alone or with its pictures."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from base.terminal import Console, ConsoleOptions
from benchmarks.worker import BATCH_SIZE, CUT, IMAGE_SIZE, KERAS, NUM_BATCHES, Rate, Source, Task
from extract.backbone import build_backbone, cut_backbone
from extract.config import EngineName, ExtractConfig, Precision
from extract.cut_backbone import CutBackbone
from extract.images.scan import Scan
from extract.loop import ExtractionLoop
from extract.run import extract_features
from extract.weights.find import Weights, find_weights
from features.catalog.tables import ImageRow

SILENT = Console(ConsoleOptions(quiet=True))
NUM_PREPARED = {Source.FILES: 320, Source.LARGE: 8}
"""Number of pictures in the stores that the measurements extend; int8 is calibrated on at most 300."""


def time_batches(run: Callable[[NDArray[np.float32]], Any], num_streams: int) -> Rate:
    """Measure a model on batches in memory, after two batches for each stream to warm up."""
    batch = np.random.default_rng(0).uniform(-1, 1, (BATCH_SIZE, IMAGE_SIZE, IMAGE_SIZE, 3)).astype(np.float32)
    with ThreadPoolExecutor(num_streams) as pool:
        list(pool.map(run, [batch] * 2 * num_streams))
        started, cpu = time.monotonic(), time.process_time()
        list(pool.map(run, [batch] * NUM_BATCHES))
        seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    num_pictures = BATCH_SIZE * NUM_BATCHES
    return Rate(num_pictures / seconds, 1000 * cpu / num_pictures)


class _Naive:
    """The loop of courses and tutorials: one dataset, `predict`, features in memory."""

    def __init__(self, task: Task) -> None:
        import keras

        self._folder = task.scratch / Source.FILES
        self._backbone = cut_backbone(build_backbone(IMAGE_SIZE, find_weights(task.weights, SILENT)), CUT)
        self._model = keras.Sequential([keras.layers.Rescaling(1 / 127.5, offset=-1), self._backbone])
        self._model.predict_on_batch(np.zeros((BATCH_SIZE, IMAGE_SIZE, IMAGE_SIZE, 3), np.float32))

    def measure(self, source: Source) -> Rate:
        import keras

        if source is Source.READY:
            return time_batches(self._backbone.predict_on_batch, 1)
        started, cpu = time.monotonic(), time.process_time()
        dataset = keras.utils.image_dataset_from_directory(
            self._folder, image_size=(IMAGE_SIZE,) * 2, batch_size=BATCH_SIZE, shuffle=False, verbose=False
        )
        num_pictures = len(self._model.predict(dataset, verbose=0))
        cpu = time.process_time() - cpu
        return Rate(num_pictures / (time.monotonic() - started), 1000 * cpu / num_pictures)


class TimedExtraction:
    """Extraction of the pictures of a task.

    A measurement extends a copy of a store that was prepared with a few pictures. So it includes neither the building
    nor the calibration of the backbone.
    """

    def __init__(self, task: Task) -> None:
        """Build the backbone, and prepare the stores."""
        self._task = task
        self._backbones: list[CutBackbone] = []
        self._loops: list[_TimedLoop] = []
        sources = [source for source in NUM_PREPARED if (task.scratch / source).is_dir()]
        self._configs = {source: _build_config(task, source) for source in sources}
        for source, config in self._configs.items():
            self._extract(replace(config, store=self._locate(source)), NUM_PREPARED[source])

    def measure(self, source: Source) -> Rate:
        """Measure the engine alone, or from the first file read to the last shard committed."""
        if source is Source.READY:
            backbone = self._backbones[0]
            return time_batches(backbone.engine.run, backbone.streams.num_streams)
        config = self._configs[source]
        shutil.rmtree(config.store, ignore_errors=True)
        shutil.copytree(self._locate(source), config.store)
        return self._extract(config)

    def _locate(self, source: Source) -> Path:
        return locate_prepared(self._task.scratch, self._task.kind, source)

    def _extract(self, config: ExtractConfig, num_pictures: int | None = None) -> Rate:
        """Extract all or some of the pictures of a folder."""
        with ExitStack() as stack:
            stack.enter_context(mock.patch("extract.run.CutBackbone", self._reuse_backbone))
            stack.enter_context(mock.patch("extract.run.ExtractionLoop", self._create_loop))
            extract_features(config, SILENT, lambda scan: _choose_pictures(scan, num_pictures))
        loop = self._loops.pop()
        return Rate(loop.images_per_second, 1000 * loop.cpu_seconds / loop.counts.num_computed)

    def _reuse_backbone(self, config: ExtractConfig, weights: Weights, console: Console) -> CutBackbone:
        if not self._backbones:
            self._backbones.append(CutBackbone(config, weights, console))
        return self._backbones[0]

    def _create_loop(self, *arguments: Any) -> ExtractionLoop:
        self._loops.append(_TimedLoop(*arguments))
        return self._loops[-1]


class _TimedLoop(ExtractionLoop):
    """Loop that measures the time of the cores."""

    cpu_seconds = 0.0

    def run(self, images: Sequence[ImageRow], max_bad: int) -> None:
        started = time.process_time()
        super().run(images, max_bad)
        self.cpu_seconds = time.process_time() - started


def _build_config(task: Task, source: Source) -> ExtractConfig:
    engine, precision = task.kind.split("-")
    return ExtractConfig(
        task.scratch / source,
        task.scratch / f"{task.kind}-{source}",
        weights=task.weights,
        engine=EngineName(engine),
        precision=Precision(precision),
    )


def locate_prepared(scratch: Path, kind: str, source: Source) -> Path:
    """Return the folder of the store that a worker prepares."""
    return scratch / f"{kind}-{source}-prepared"


def _choose_pictures(scan: Scan, number: int | None) -> Scan:
    """Return a scan with some of its pictures, evenly spread over the classes."""
    if number is None:
        return scan
    return replace(scan, images=scan.images[:: max(1, len(scan.images) // number)][:number])


def main() -> None:
    """Print a rate for each source on standard input."""
    kind, weights, scratch = sys.argv[1:]
    # Libraries print to the standard output, too.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    task = Task(kind, weights, Path(scratch))
    measure = _Naive(task).measure if kind == KERAS else TimedExtraction(task).measure
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(Source(line.strip()))), file=answers, flush=True)


if __name__ == "__main__":
    main()
