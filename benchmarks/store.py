"""Cost of the store: rates of writing and reading, size, time to open, and the cost of integrity in extraction."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import numpy as np
from typer import Option

from base.command_line import run_app
from base.terminal import Console
from benchmarks.synthetic import ROWS_PER_BLOCK, SHAPE, make_image, write_store
from features.schema import Features
from features.shards.chunks import encode_rows
from features.store import FeatureStore

EXTRACTION_RATE = 100.0
"""Pictures per second of the backbone alone on two cores at 150 px; the cost of integrity is relative to this rate."""
ROWS_READ = 2048


@dataclass(frozen=True)
class StoreBenchmarkConfig:
    """Options of the benchmark."""

    rows: Annotated[str, Option(help="Numbers of features, comma-separated.")] = "1000,10000,100000"
    folder: Annotated[
        Path | None, Option(help="Folder for temporary stores; by default the temporary folder of the system.")
    ] = None


def measure_store(config: StoreBenchmarkConfig, console: Console) -> Mapping[str, Any]:
    """Measure writing, reading and opening stores of synthetic features, as sparse as those of mixed7."""
    results = []
    for num_rows in map(int, config.rows.split(",")):
        scratch = Path(tempfile.mkdtemp(dir=config.folder))
        try:
            results.append(_measure_one(scratch / "store", num_rows))
        finally:
            shutil.rmtree(scratch)
        console.debug(str(results[-1]))
    console.show_table(
        "the store, mixed7 at 150 px, one thread writes",
        [
            ("features", *(f"{result['rows']:,}" for result in results)),
            ("written, rows/s", *(f"{result['rows'] / result['write_seconds']:.0f}" for result in results)),
            ("compression, share of writing", *(f"{result['encode_share']:.0%}" for result in results)),
            ("read in order, rows/s", *(f"{result['read_rate']:.0f}" for result in results)),
            ("bytes per feature", *(f"{result['bytes_per_row']:.0f}" for result in results)),
            ("time to open, s", *(f"{result['open_seconds']:.2f}" for result in results)),
            ("integrity / extraction", *(f"{result['integrity_share']:.1%}" for result in results)),
            ("peak memory writing, MB", *(f"{result['peak_mb']:.0f}" for result in results)),
        ],
    )
    return {"results": results}


def _measure_one(store: Path, num_rows: int) -> dict[str, float]:
    program = f"from benchmarks.store import write_rows; write_rows({str(store)!r}, {num_rows})"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], check=True, env=environment, capture_output=True, text=True)
    write_seconds, encode_seconds, peak_mb = map(float, done.stdout.split())
    started = time.perf_counter()
    opened = FeatureStore(store)
    in_order = sorted(opened.examples, key=lambda example: (example.shard, example.row))[:ROWS_READ]
    open_seconds = time.perf_counter() - started
    started = time.perf_counter()
    opened.read(in_order)
    read_seconds = time.perf_counter() - started
    return {
        "rows": num_rows,
        "write_seconds": write_seconds,
        "encode_share": encode_seconds / write_seconds,
        "integrity_share": (write_seconds - encode_seconds) / (num_rows / EXTRACTION_RATE),
        "read_rate": len(in_order) / read_seconds,
        "bytes_per_row": sum(shard.num_bytes for shard in opened.shards) / num_rows,
        "open_seconds": open_seconds,
        "peak_mb": peak_mb,
    }


def write_rows(store: str, num_rows: int) -> None:
    """Write a synthetic store; print total seconds, seconds of compression, and peak memory in MB."""
    block = _make_block()
    images = [make_image(f"train/{number % 2}/{number:07}.jpg") for number in range(num_rows)]
    clock = _Clock()
    started = time.perf_counter()
    with mock.patch("features.shards.write.encode_rows", clock.time(encode_rows)):
        write_store(Path(store), images, lambda numbers: block[: len(numbers)])
    seconds = time.perf_counter() - started
    print(seconds, clock.seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


class _Clock:
    """Total time of a function's calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def time(self, act: Callable[..., list[bytes]]) -> Callable[..., list[bytes]]:
        def timed(*arguments: Any) -> list[bytes]:
            started = time.perf_counter()
            try:
                return act(*arguments)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


def _make_block(num_rows: int = ROWS_PER_BLOCK) -> Features:
    rng = np.random.default_rng(0)
    values = rng.exponential(0.6, (num_rows, *SHAPE)).astype(np.float16)
    values[rng.random(values.shape) < 0.8] = 0
    return values


if __name__ == "__main__":
    run_app(measure_store, StoreBenchmarkConfig, "python -m benchmarks.store")
