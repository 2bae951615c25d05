"""Speed and memory of extraction: the engines alone, files to store, large photographs, and the time of each step.

Each engine and precision runs in its own process, which is started once. Each round measures all of them in turn;
the tables have the medians of the rounds, and of the ratios of each round.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any

import numpy as np
from typer import Option

from base.command_line import run_app
from base.errors import UsageError
from base.terminal import Console, format_bytes
from benchmarks.extraction_tables import ENGINES, Rounds, list_tables
from benchmarks.pictures import make_large_pictures, multiply_pictures, time_decoding, time_steps
from benchmarks.process import run_module
from benchmarks.timed_extraction import NUM_PREPARED, locate_prepared
from benchmarks.worker import IMAGE_SIZE, KERAS, Source, Task, Worker
from extract.config import EngineName, Precision
from extract.engines import count_cores
from extract.engines.choose import Computer, EngineChoice, check_engine
from extract.engines.processor import find_processor
from extract.images.scan import scan_images
from features.schema import Features
from features.store import FeatureStore
from train_head.export.readme.template import Markdown, format_table

MACS_PER_IMAGE = 0.919e9
"""Multiply-accumulate operations of InceptionV3 up to mixed7 at 150 px."""
NUM_STEPS = {Source.FILES: 200, Source.LARGE: 12}
"""Number of pictures for the time of each step."""


@dataclass(frozen=True)
class ExtractionBenchmarkConfig:
    """Options of the benchmark."""

    images: Annotated[Path, Option(help="Folder of JPEGs in class folders.")] = Path("data/elpv")
    weights: Annotated[str, Option(help="Weights, as for `python -m extract`.")] = "auto"
    pictures: Annotated[
        int, Option(min=2 * NUM_PREPARED[Source.FILES], help="Number of pictures to extract, copied from --images.")
    ] = 1600
    repeats: Annotated[int, Option(min=1, help="Number of rounds; medians are reported.")] = 3
    kinds: Annotated[
        str,
        Option(
            help=f"What to measure, separated by commas, of {', '.join(ENGINES)}. By default all that are possible."
        ),
    ] = ""
    large: Annotated[bool, Option(help="Whether to measure pictures of 12 megapixels.")] = True
    memory: Annotated[
        str, Option(help="Numbers of pictures at which to measure peak memory, comma-separated; may be empty.")
    ] = "1000,10000"


def measure_extraction(config: ExtractionBenchmarkConfig, console: Console) -> Mapping[str, Any]:
    """Measure engines and extraction in turn, and print Markdown tables."""
    kinds = choose_kinds(config.kinds, console)
    processor = find_processor().describe(count_cores(0))
    console.info(processor)
    sources = [config.images / image.path for image in scan_images(config.images).images]
    # Some of the pictures have all classes.
    Random(0).shuffle(sources)
    with tempfile.TemporaryDirectory(prefix="headstart-") as folder:
        scratch = Path(folder)
        multiply_pictures(sources, config.pictures, scratch / Source.FILES)
        if config.large:
            make_large_pictures(sources, scratch / Source.LARGE)
        rounds = _measure_rounds(kinds, scratch, config, console)
        if not console.options.json:
            print(f"{processor}; {config.pictures:,} pictures; medians of {config.repeats}")
            for rows in list_tables(rounds):
                print(f"\n{format_table([tuple(map(Markdown, row)) for row in rows])}")
        peaks = {
            int(number): measure_memory(sources, int(number), scratch / "memory", config.weights)
            for number in config.memory.split(",")
            if number
        }
    if peaks and not console.options.json:
        rows = [("pictures", "peak memory"), *((f"{number:,}", format_bytes(peak)) for number, peak in peaks.items())]
        print(f"\n{format_table(rows)}")
    return {"processor": processor, "peak_bytes": peaks, **asdict(rounds)}


def choose_kinds(requested: str, console: Console) -> list[str]:
    """Return the kinds of workers to start: those that are requested, or all that this computer supports.

    Raises:
        UsageError: a requested kind is unknown or not possible.
    """
    names = [name.strip() for name in requested.split(",") if name.strip()]
    if unknown := [name for name in names if name not in ENGINES]:
        raise UsageError("--kinds", f"some of {', '.join(ENGINES)}", ", ".join(unknown), "Correct the names")
    possible = []
    for kind in names or ENGINES:
        try:
            if kind != KERAS:
                engine, precision = kind.split("-")
                check_engine(EngineChoice(EngineName(engine), Precision(precision)), Computer(find_processor()))
        except UsageError as error:
            if names:
                raise
            console.info(f"{kind} is not measured. {error}")
        else:
            possible.append(kind)
    return possible


def _measure_rounds(kinds: Sequence[str], scratch: Path, config: ExtractionBenchmarkConfig, console: Console) -> Rounds:
    rounds = Rounds()
    sources = [Source.READY, Source.FILES, *([Source.LARGE] if config.large else [])]
    with ExitStack() as stack:
        workers = {kind: stack.enter_context(Worker(Task(kind, config.weights, scratch))) for kind in kinds}
        paths = {source: sorted((scratch / source).rglob("*.*")) for source in sources[1:]}
        for kind in kinds:
            rounds.rates[kind] = {source: [] for source in sources if kind != KERAS or source is not Source.LARGE}
        features = read_prepared(scratch, rounds.reference) if rounds.reference else np.empty(0, np.float16)
        pairs = [(source, kind) for source in sources for kind in kinds if source in rounds.rates[kind]]
        with console.progress("measure", config.repeats * len(pairs), "measurements") as progress:
            for _ in range(config.repeats):
                rounds.matrix.append(time_matrix())
                for source, kind in pairs:
                    rounds.rates[kind][source].append(workers[kind].measure(source))
                    progress.advance(1, f"{kind} {source}")
                if config.large:
                    rounds.decoding.append(time_decoding(paths[Source.LARGE]))
                for source, found in paths.items() if len(features) else ():
                    chosen = found[:: max(1, len(found) // NUM_STEPS[source])]
                    rounds.steps.setdefault(source, []).append(time_steps(chosen, features, IMAGE_SIZE))
    return rounds


def read_prepared(scratch: Path, kind: str) -> Features:
    """Read the features of the store that a worker has prepared."""
    store = FeatureStore(locate_prepared(scratch, kind, Source.FILES))
    return store.read(store.examples)


def time_matrix() -> float:
    """Return the pictures per second if all operations were one large float32 matrix product."""
    side = 4096
    left, right = np.random.default_rng(0).normal(size=(2, side, side)).astype(np.float32)
    left @ right
    started = time.monotonic()
    for _ in range(3):
        left @ right
    return 3 * side**3 / (time.monotonic() - started) / MACS_PER_IMAGE


def measure_memory(sources: Sequence[Path], num_pictures: int, scratch: Path, weights: str) -> int:
    """Return the peak memory of `python -m extract` in bytes."""
    multiply_pictures(sources, num_pictures, scratch / "pictures")
    options = ["--images", str(scratch / "pictures"), "--store", str(scratch / "store"), "--weights", weights]
    cost = run_module("extract", options)
    shutil.rmtree(scratch)
    return cost.peak_bytes


if __name__ == "__main__":
    run_app(measure_extraction, ExtractionBenchmarkConfig, "python -m benchmarks.extraction")
