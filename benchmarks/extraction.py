"""Speed and memory of extraction: engines on prepared batches, files to store, and large photographs.

Each method runs in its own process, which is started once. Each round times all methods; medians are reported.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from typer import Option

from base.command_line import run_app
from base.terminal import Console, format_bytes
from benchmarks.process import run_module
from benchmarks.worker import Task, Worker
from extract.config import Precision
from extract.decoding.decode import decode_image
from extract.engines import count_cores
from extract.engines.choose import list_instructions
from extract.engines.processor import find_processor
from extract.images.scan import scan_images

LARGE_SIZE = (4000, 3000)
NUM_LARGE, NUM_COPIES = 24, 6
READY = {
    "matrix": "float32 matrix product, the upper bound",
    "keras": "Keras predict_on_batch",
    "onnxruntime": "ONNX Runtime",
    "engine tensorflow float32": "TensorFlow engine, the default",
    "engine openvino float32": "OpenVINO engine",
    "engine tensorflow bfloat16": "TensorFlow engine, bfloat16",
    "engine openvino bfloat16": "OpenVINO engine, bfloat16",
}
FILES = {
    "naive": "image_dataset_from_directory + predict",
    "extract tensorflow float32": "python -m extract",
    "extract openvino float32": "--engine openvino",
    "extract tensorflow bfloat16": "--precision bfloat16",
    "extract openvino bfloat16": "--engine openvino --precision bfloat16",
}
_PACKAGES = {"onnxruntime": ("onnxruntime", "tf2onnx"), "openvino": ("openvino",)}


@dataclass(frozen=True)
class ExtractionBenchmarkConfig:
    """Options of the benchmark."""

    images: Annotated[Path, Option(help="Folder of JPEGs in class folders.")] = Path("data/elpv")
    weights: Annotated[str, Option(help="Weights, as for `python -m extract`.")] = "auto"
    pictures: Annotated[int, Option(min=1, help="Number of pictures to extract, copied from --images.")] = 2400
    repeats: Annotated[int, Option(min=1, help="Number of rounds; the median of each kind is reported.")] = 3
    memory: Annotated[
        str, Option(help="Numbers of pictures at which to measure peak memory, comma-separated; may be empty.")
    ] = "1000,10000"


def measure_extraction(config: ExtractionBenchmarkConfig, console: Console) -> Mapping[str, Any]:
    """Measure all methods in turn."""
    sources = [config.images / image.path for image in scan_images(config.images).images]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        scratch = Path(folder)
        multiply_pictures(sources, config.pictures, scratch / "pictures")
        make_large_pictures(sources, scratch / "large")
        kinds = [kind for kind in (*READY, *FILES) if can_measure(kind)]
        tasks = {kind: (scratch / "pictures", kind) for kind in kinds}
        tasks["large"] = (scratch / "large", "extract tensorflow float32")
        workers = {}
        for name, (images, kind) in tasks.items():
            own = scratch / f"{name} scratch"
            own.mkdir()
            workers[name] = stack.enter_context(Worker(Task(kind, config.weights, str(images), str(own))))
        rates: dict[str, list[float]] = {name: [] for name in (*workers, "decode")}
        with console.progress("measure", config.repeats * len(rates), "measurements") as progress:
            for _ in range(config.repeats):
                for name, worker in workers.items():
                    rates[name].append(worker.measure())
                    progress.advance(1, name)
                rates["decode"].append(time_decoding(scratch / "large"))
                progress.advance(1, "decode")
        stack.close()
        peaks = {
            int(number): measure_memory(sources, int(number), scratch / f"memory-{number}", config.weights)
            for number in config.memory.split(",")
            if number
        }
    return show(rates, peaks, config, console)


def can_measure(kind: str) -> bool:
    """Return whether the packages and the processor support a kind of measurement."""
    if "bfloat16" in kind and not list_instructions(find_processor(), Precision.BFLOAT16):
        return False
    return all(find_spec(package) for word in kind.split() for package in _PACKAGES.get(word, ()))


def multiply_pictures(sources: Sequence[Path], num_pictures: int, folder: Path) -> None:
    """Write distinct files by copying pictures; bytes appended to a picture change its content hash."""
    for number, copy in zip(range(num_pictures), (n // len(sources) for n in count()), strict=False):
        source = sources[number % len(sources)]
        path = folder / source.parent.name / f"{copy:03}-{number:06}{source.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.read_bytes() + bytes(copy))


def make_large_pictures(sources: Sequence[Path], folder: Path) -> None:
    """Enlarge pictures to JPEGs of 12 megapixels, with noise like that of a camera."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 4, (LARGE_SIZE[1], LARGE_SIZE[0], 1))
    for number, source in enumerate(sources[:NUM_LARGE]):
        image = Image.open(source).convert("RGB").resize(LARGE_SIZE, Image.Resampling.BICUBIC)
        noisy = np.clip(np.asarray(image) + np.roll(noise, number * 997), 0, 255).astype(np.uint8)
        path = folder / ("odd" if number % 2 else "even") / f"{number:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(path, quality=90)
        for copy in range(1, NUM_COPIES):
            path.with_stem(f"{path.stem}-{copy}").write_bytes(path.read_bytes() + bytes(copy))


def time_decoding(folder: Path) -> float:
    """Decode pictures in one thread for each core; return pictures per second."""
    paths = sorted(path for path in folder.rglob("*.jpg"))
    started = time.monotonic()
    with ThreadPoolExecutor(count_cores(0)) as pool:
        list(pool.map(lambda path: decode_image(path.read_bytes()).shape, paths))
    return len(paths) / (time.monotonic() - started)


def measure_memory(sources: Sequence[Path], num_pictures: int, scratch: Path, weights: str) -> int:
    """Return the peak memory of `python -m extract` in bytes."""
    multiply_pictures(sources, num_pictures, scratch / "pictures")
    options = ["--images", str(scratch / "pictures"), "--store", str(scratch / "store"), "--weights", weights]
    cost = run_module("extract", options)
    shutil.rmtree(scratch)
    return cost.peak_bytes


def show(
    rates: Mapping[str, Sequence[float]], peaks: Mapping[int, int], config: ExtractionBenchmarkConfig, console: Console
) -> Mapping[str, Any]:
    """Print tables with ratios; return all measurements."""
    median = {name: statistics.median(found) for name, found in rates.items() if found}
    engine, naive = median["engine tensorflow float32"], median["naive"]
    where = f"{count_cores(0)} of {os.cpu_count()} cores, medians of {config.repeats}"
    console.show_table(
        f"ready-made batches, {where}",
        [
            (label, f"{median[kind]:.1f}/s", f"{median[kind] / engine:.2f} x")
            for kind, label in READY.items()
            if kind in median
        ],
    )
    console.show_table(
        f"files to store, {config.pictures:,} pictures, {where}",
        [
            (
                label,
                f"{median[kind]:.1f}/s",
                f"{median[kind] / naive:.2f} x",
                ""
                if kind == "naive"
                else f"{median[kind] / median[kind.replace('extract', 'engine')]:.2f} of the engine",
            )
            for kind, label in FILES.items()
            if kind in median
        ],
    )
    console.show_table(
        "large photographs, 12 megapixels",
        [
            ("decoding alone", f"{median['decode']:.1f}/s", ""),
            ("python -m extract", f"{median['large']:.1f}/s", f"{median['large'] / median['decode']:.2f} of decoding"),
        ],
    )
    if peaks:
        console.show_table(
            "peak memory", [(f"{number:,} pictures", format_bytes(peak)) for number, peak in peaks.items()]
        )
    return {"rates": {name: list(found) for name, found in rates.items()}, "medians": median, "peak_bytes": peaks}


if __name__ == "__main__":
    run_app(measure_extraction, ExtractionBenchmarkConfig, "python -m benchmarks.extraction")
