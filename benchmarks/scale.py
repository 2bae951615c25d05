"""Time and memory of `python -m train_head` by the number of pictures, on synthetic features.

The features are as sparse as those of `mixed7` and differ by class. They are written once to --folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from typer import Option

from base.command_line import run_app
from base.terminal import Console, format_bytes, format_seconds
from benchmarks.process import Cost, run_module
from benchmarks.synthetic import SHAPE, write_store
from features.schema import Features
from train_head.data.batches import Array

LABELS = ("cats", "dogs")


@dataclass(frozen=True)
class ScaleBenchmarkConfig:
    """Options of the benchmark."""

    folder: Annotated[Path, Option(help="Folder of the stores, which are reused; 50,000 rows take 1 GB.")]
    rows: Annotated[str, Option(help="Numbers of training pictures, comma-separated.")] = "800,10000,50000"
    epochs: Annotated[int, Option(min=1, help="Number of epochs of each training.")] = 5


@dataclass(frozen=True)
class _Result:
    """Measurements of one size."""

    rows: int
    first: Cost
    again: Cost
    factor_bytes: int


def measure_scale(config: ScaleBenchmarkConfig, console: Console) -> Mapping[str, Any]:
    """Train on stores of increasing size, first without and then with cached factors."""
    results: list[_Result] = []
    for num_rows in map(int, config.rows.split(",")):
        store = config.folder / f"rows-{num_rows}"
        if not store.exists():
            _make_store(store, num_rows, console)
        options = ["--store", str(store), "--solver", "reduced", "--no-report", "--overwrite"]
        options += ["--epochs", str(config.epochs)]
        for factors in (store / "derived").glob("*"):
            factors.unlink()
        first, again = (
            run_module("train_head", [*options, "--seed", str(seed), "--run", str(config.folder / "run")])
            for seed in (0, 1)
        )
        factor_bytes = sum(factors.stat().st_size for factors in (store / "derived").glob("*"))
        results.append(_Result(num_rows, first, again, factor_bytes))
    console.show_table(
        f"training, {config.epochs} epochs",
        [
            ("pictures", "factors computed", "", "factors cached", "", "factors"),
            *(
                (
                    f"{result.rows:,}",
                    format_seconds(result.first.seconds),
                    format_bytes(result.first.peak_bytes),
                    format_seconds(result.again.seconds),
                    format_bytes(result.again.peak_bytes),
                    format_bytes(result.factor_bytes),
                )
                for result in results
            ),
        ],
    )
    return {"results": [asdict(result) for result in results]}


def _make_store(folder: Path, num_rows: int, console: Console) -> None:
    num_all = num_rows + num_rows // 5
    paths = [
        f"{'train' if number < num_rows else 'validation'}/{LABELS[number % 2]}/{number}" for number in range(num_all)
    ]
    rng = np.random.default_rng(num_rows)
    centers = np.maximum(rng.standard_normal((64, int(np.prod(SHAPE))), np.float32) - 1, 0)
    with console.progress("write", num_all, "rows") as progress:

        def draw(numbers: range) -> Features:
            progress.advance(len(numbers))
            return _draw_features(rng, centers, numbers)

        write_store(folder, paths, draw)


def _draw_features(rng: np.random.Generator, centers: Array, numbers: range) -> Features:
    """Draw mixtures of a few centres of each row's class, plus noise; mostly zeros, as after a ReLU."""
    half = len(centers) // 2
    mixtures = rng.dirichlet(np.full(half, 0.1), len(numbers)).astype(np.float32)
    is_second = np.array(numbers)[:, None] % 2 == 1
    mixed = np.where(is_second, mixtures @ centers[half:], mixtures @ centers[:half])
    noise = rng.standard_normal(mixed.shape, np.float32)
    return np.asarray(np.maximum(mixed + 0.5 * noise - 0.8, 0), np.float16).reshape(-1, *SHAPE)


if __name__ == "__main__":
    run_app(measure_scale, ScaleBenchmarkConfig, "python -m benchmarks.scale")
