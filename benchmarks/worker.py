"""Worker processes for timing: each is prepared for one way of running the backbone, and measures it on request.

TensorFlow sets its number of threads once per process, so each way needs its own process.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from base.terminal import Console, ConsoleOptions
from extract.backbone import build_backbone, cut_backbone, join_cuts
from extract.config import EngineName, ExtractConfig, Precision
from extract.engines import build_engine, count_cores, plan_streams
from extract.weights.find import find_weights

if TYPE_CHECKING:
    import keras

BATCH_SIZE, NUM_BATCHES, IMAGE_SIZE, CUT = 32, 16, 150, "mixed7"
MACS_PER_IMAGE = 0.919e9
"""Multiply-accumulate operations of InceptionV3 up to mixed7 at 150 px."""
SILENT = Console(ConsoleOptions(quiet=True))
Batch = NDArray[np.float32]


@dataclass(frozen=True)
class Task:
    """The measurement that a worker repeats on request."""

    kind: str
    weights: str
    images: str = ""
    scratch: str = ""


class Worker:
    """A worker process, as seen by its parent."""

    def __init__(self, task: Task) -> None:
        """Start the process, and wait until it is ready."""
        command = [sys.executable, "-m", "benchmarks.worker", *vars(task).values()]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._read()

    def _read(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with status {self._process.wait()}")
        return line

    def measure(self) -> float:
        """Run one measurement; return pictures per second."""
        if self._process.stdin:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return float(self._read())

    def __enter__(self) -> Self:
        """Return the worker."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def make_measure(task: Task) -> Callable[[], float]:
    """Build and warm up a model, and return a function that measures its rate in pictures per second."""
    match task.kind.split():
        case ["matrix"]:
            return _measure_matrix
        case ["keras"]:
            model = _build_model(task.weights)
            return _measure_batches(model.predict_on_batch, 1)
        case ["onnxruntime"]:
            return _measure_batches(_make_onnx(_build_model(task.weights), Path(task.scratch)), 1)
        case ["engine", name, precision]:
            streams = plan_streams(count_cores(0))
            if name == EngineName.TENSORFLOW:
                from extract.engines.tensorflow import configure_tensorflow

                configure_tensorflow(streams)
            model = join_cuts([_build_model(task.weights)])
            engine = build_engine(EngineName(name), Precision(precision), model, streams)
            return _measure_batches(engine.run, streams.num_streams)
        case ["naive"]:
            return _make_naive(task)
        case ["extract", name, precision]:
            return _make_extraction(task, EngineName(name), Precision(precision))
    raise ValueError(task.kind)


def _build_model(weights: str) -> keras.Model:
    return cut_backbone(build_backbone(IMAGE_SIZE, find_weights(weights, SILENT)), CUT)


def _measure_batches(run: Callable[[Batch], Any], num_streams: int) -> Callable[[], float]:
    batch = np.random.default_rng(0).uniform(-1, 1, (BATCH_SIZE, IMAGE_SIZE, IMAGE_SIZE, 3)).astype(np.float32)
    pool = ThreadPoolExecutor(num_streams)

    def measure(num_batches: int = NUM_BATCHES) -> float:
        started = time.monotonic()
        list(pool.map(run, [batch] * num_batches))
        return BATCH_SIZE * num_batches / (time.monotonic() - started)

    measure(2 * num_streams)
    return measure


def _measure_matrix() -> float:
    """Return the pictures per second if all operations were one large float32 matrix product."""
    side = 4096
    left, right = np.random.default_rng(0).normal(size=(2, side, side)).astype(np.float32)
    left @ right
    started = time.monotonic()
    for _ in range(3):
        left @ right
    return 3 * side**3 / (time.monotonic() - started) / MACS_PER_IMAGE


def _make_onnx(model: keras.Model, scratch: Path) -> Callable[[Batch], Any]:
    import onnxruntime

    # Keras exports only a model that was called.
    model(np.zeros((1, IMAGE_SIZE, IMAGE_SIZE, 3), np.float32))
    model.export(scratch / "model.onnx", format="onnx", verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = count_cores(0)
    session = onnxruntime.InferenceSession(scratch / "model.onnx", options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})


def _make_naive(task: Task) -> Callable[[], float]:
    """Measure the loop of courses and tutorials: one dataset, `predict`, features in memory."""
    import keras

    model = _build_model(task.weights)
    pixels = keras.Sequential([keras.layers.Rescaling(1 / 127.5, offset=-1), model])

    def measure() -> float:
        started = time.monotonic()
        dataset = keras.utils.image_dataset_from_directory(
            task.images, image_size=(IMAGE_SIZE,) * 2, batch_size=BATCH_SIZE, shuffle=False, verbose=False
        )
        num_pictures = len(pixels.predict(dataset, verbose=0))
        return num_pictures / (time.monotonic() - started)

    pixels.predict_on_batch(np.zeros((BATCH_SIZE, IMAGE_SIZE, IMAGE_SIZE, 3), np.float32))
    return measure


def _make_extraction(task: Task, engine: EngineName, precision: Precision) -> Callable[[], float]:
    """Measure from the first file read to the last shard committed, as reported by `python -m extract`."""
    import shutil

    from extract.run import extract_features

    store = Path(task.scratch, "store")
    config = ExtractConfig(Path(task.images), store, weights=task.weights, engine=engine, precision=precision)

    def measure() -> float:
        shutil.rmtree(store, ignore_errors=True)
        return extract_features(config, SILENT).images_per_second

    return measure


def main() -> None:
    """Print a rate for each line on standard input."""
    measure = make_measure(Task(*sys.argv[1:]))
    print("ready", flush=True)
    for _ in sys.stdin:
        print(measure(), flush=True)


if __name__ == "__main__":
    main()
