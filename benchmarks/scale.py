"""Time and peak memory of each command by the number of pictures, on synthetic stores of up to a million rows.

The features differ by class. The pictures are names of a few small files; the catalog has their sizes and times, and
content hashes of its own, so that an extraction finds nothing to do. Stores and pictures are written once to --folder.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from typer import Option

from base.command_line import run_app
from base.errors import UsageError
from base.terminal import Console, format_bytes, format_seconds
from benchmarks.process import Cost, run_module
from benchmarks.synthetic import link_pictures, write_pictures, write_store
from features.options import Pool
from features.schema import Features
from features.shards.shard import SHARD_FOLDER
from features.store import FeatureStore
from train_head.data.batches import Array

LABELS = ("cats", "dogs")
VALIDATION_EVERY = 6
"""One of so many pictures is for validation."""
NUM_REAL = 8
"""Number of pictures of each split and class whose content is that of the catalog."""


class Step(StrEnum):
    """Measured step; each is its own process."""

    OPEN = "open"
    INFO = "info"
    CHECK = "check"
    EXTRACT = "extract"
    REDUCE = "reduce"
    TRAIN = "train"
    EXPORT = "export"
    COMMIT = "commit"
    RELABEL = "relabel"


DESCRIPTIONS = {
    Step.OPEN: "open, and list the pictures",
    Step.INFO: "info",
    Step.CHECK: "check of the structure",
    Step.EXTRACT: "extract, nothing to do",
    Step.REDUCE: "train, features reduced",
    Step.TRAIN: "train, reduction cached",
    Step.EXPORT: "export",
    Step.COMMIT: "add one shard",
    Step.RELABEL: "change one label",
}


@dataclass(frozen=True)
class ScaleBenchmarkConfig:
    """Options of the benchmark."""

    folder: Annotated[Path, Option(help="Folder of stores and pictures, which are reused. A million rows take 2 GB.")]
    rows: Annotated[str, Option(help="Numbers of pictures, comma-separated; a sixth is for validation.")] = (
        "1000,10000,100000,1000000"
    )
    pool: Annotated[
        Pool, Option(help="avg writes features of 768 numbers; none writes whole features, 100,000 rows in 2 GB.")
    ] = Pool.AVG
    steps: Annotated[str, Option(help="Steps to measure, comma-separated.")] = ",".join(Step)
    epochs: Annotated[int, Option(min=1, help="Number of epochs of each training.")] = 5


@dataclass(frozen=True)
class Files:
    """Files of one size."""

    folder: Path

    @property
    def store(self) -> Path:
        """Feature store."""
        return self.folder / "store"

    @property
    def pictures(self) -> Path:
        """Folder of pictures."""
        return self.folder / "pictures"

    @property
    def run(self) -> Path:
        """Run that is exported."""
        return self.folder / "run"

    @property
    def scratch(self) -> Path:
        """Copy of the store, or exported model, which is removed after the step."""
        return self.folder / "scratch"


def measure_scale(config: ScaleBenchmarkConfig, console: Console) -> Mapping[str, Any]:
    """Measure each step on stores of increasing size."""
    sizes, steps = list(map(int, config.rows.split(","))), config.steps.split(",")
    if unknown := [step for step in steps if step not in set(Step)]:
        raise UsageError("--steps", ", ".join(Step), unknown[0], "Give some of these")
    costs: dict[Step, list[Cost]] = {step: [] for step in Step if step in steps}
    for num_rows in sizes:
        files = Files(config.folder / f"pool-{config.pool}-{num_rows}")
        if not files.folder.exists():
            make_files(files, num_rows, config.pool, console)
        for step, found in costs.items():
            found.append(_measure_step(step, files, config))
            console.info(f"{num_rows:,} rows, {DESCRIPTIONS[step]}: {_format_cost(found[-1])}")
    console.show_table(
        f"features of {'768' if config.pool is Pool.AVG else '7 x 7 x 768'} numbers, {config.epochs} epochs",
        [
            ("rows", *(f"{num_rows:,}" for num_rows in sizes), "growth"),
            *(
                (DESCRIPTIONS[step], *map(_format_cost, found), describe_growth(sizes, found))
                for step, found in costs.items()
            ),
        ],
    )
    results = {step.value: [cost._asdict() for cost in found] for step, found in costs.items()}
    return {"rows": sizes, "pool": config.pool.value, "steps": results}


def _measure_step(step: Step, files: Files, config: ScaleBenchmarkConfig) -> Cost:
    store = str(files.store)
    match step:
        case Step.INFO:
            return run_module("features", ["info", store])
        case Step.CHECK:
            return run_module("features", ["check", store])
        case Step.EXTRACT:
            return run_module("extract", _list_extract_options(files, config.pool))
        case Step.REDUCE:
            shutil.rmtree(files.store / "derived", ignore_errors=True)
            return _train(files, config, 0)
        case Step.TRAIN:
            return _train(files, config, 1)
        case Step.EXPORT:
            options = ["--run", str(files.run), "--out", str(files.scratch), "--images", str(files.pictures)]
            options += ["--store", store, "--check", str(NUM_REAL)]
            return _measure_copy(files, lambda: run_module("train_head.export", options))
        case Step.COMMIT | Step.RELABEL:
            _copy_store(files.store, files.scratch)
            return _measure_copy(files, lambda: run_module("benchmarks.scale_steps", [step, str(files.scratch)]))
        case Step.OPEN:
            return run_module("benchmarks.scale_steps", [step, store])


def _train(files: Files, config: ScaleBenchmarkConfig, seed: int) -> Cost:
    options = ["--store", str(files.store), "--run", str(files.run), "--solver", "reduced", "--no-report"]
    return run_module("train_head", [*options, "--overwrite", "--epochs", str(config.epochs), "--seed", str(seed)])


def _list_extract_options(files: Files, pool: Pool) -> list[str]:
    return ["--images", str(files.pictures), "--store", str(files.store), "--pool", pool]


def _measure_copy(files: Files, measure: Callable[[], Cost]) -> Cost:
    try:
        return measure()
    finally:
        shutil.rmtree(files.scratch, ignore_errors=True)


def _copy_store(store: Path, target: Path) -> None:
    """Copy a store; its shards are never modified, so that links to them are enough."""
    shutil.copytree(store, target, ignore=shutil.ignore_patterns("derived", SHARD_FOLDER))
    shutil.copytree(store / SHARD_FOLDER, target / SHARD_FOLDER, copy_function=os.link)


def _format_cost(cost: Cost) -> str:
    return f"{format_seconds(cost.seconds)}, {format_bytes(cost.peak_bytes)}"


def describe_growth(sizes: Sequence[int], costs: Sequence[Cost]) -> str:
    """Return the exponent of the growth of the time between the last two sizes."""
    if len(sizes) < 2:
        return ""
    return f"n^{math.log(costs[-1].seconds / costs[-2].seconds) / math.log(sizes[-1] / sizes[-2]):.2f}"


def make_files(files: Files, num_rows: int, pool: Pool, console: Console) -> None:
    """Write pictures and a store of their features; the folder gets its name when it is complete.

    A few pictures are extracted, with random weights: `export` checks the model on them.
    """
    partial = Files(files.folder.with_name(f"{files.folder.name}.partial"))
    shutil.rmtree(partial.folder, ignore_errors=True)
    places = [f"{split}/{label}" for split in ("train", "validation") for label in LABELS]
    real = write_pictures(partial.pictures, places, NUM_REAL)
    run_module("extract", [*_list_extract_options(partial, pool), "--weights", "random"])
    paths = [
        f"{'validation' if number % VALIDATION_EVERY == 0 else 'train'}/{LABELS[_find_class(number)]}/{number:07}.png"
        for number in range(num_rows - len(real))
    ]
    with console.progress("link", len(paths), "pictures") as progress:
        images = link_pictures(real, partial.pictures, paths, progress)
    store = FeatureStore(partial.store)
    rng = np.random.default_rng(num_rows)
    centers = np.maximum(rng.standard_normal((64, math.prod(store.feature_shape)), np.float32) - 1, 0)
    with console.progress("write", len(paths), "rows") as progress:

        def draw(numbers: range) -> Features:
            progress.advance(len(numbers))
            return _draw_features(rng, centers, numbers, pool).reshape(-1, *store.feature_shape)

        write_store(partial.store, images, draw, store.fingerprint, store.origin)
    partial.folder.rename(files.folder)


def _find_class(number: int) -> int:
    return number // VALIDATION_EVERY % 2


def _draw_features(rng: np.random.Generator, centers: Array, numbers: range, pool: Pool) -> Features:
    """Draw mixtures of a few centres of each row's class, plus noise: mostly zeros as after a ReLU, few if pooled."""
    half = len(centers) // 2
    mixtures = rng.dirichlet(np.full(half, 0.1), len(numbers)).astype(np.float32)
    is_second = np.array([_find_class(number) for number in numbers])[:, None] == 1
    mixed = np.where(is_second, mixtures @ centers[half:], mixtures @ centers[:half])
    noise = rng.standard_normal(mixed.shape, np.float32)
    return np.asarray(np.maximum(mixed + 0.5 * noise + (1 if pool is Pool.AVG else -0.65), 0), np.float16)


if __name__ == "__main__":
    run_app(measure_scale, ScaleBenchmarkConfig, "python -m benchmarks.scale")
