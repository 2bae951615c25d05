"""Time of reading a table of labels and matching its rows to pictures; the pictures need not exist."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from base.command_line import run_app
from base.terminal import Console, format_seconds
from extract.images.walk import PictureFile
from extract.labels.scan import label_pictures
from extract.labels.table import read_table

NUM_CLASSES, NUM_COLUMNS, NUM_REPEATS = 120, 14, 3


@dataclass(frozen=True)
class LabelsBenchmarkConfig:
    """Options of the benchmark."""

    rows: Annotated[int, Option(min=1, help="Number of rows and pictures.")] = 100_000


def measure_labels(config: LabelsBenchmarkConfig, console: Console) -> Mapping[str, Any]:
    """Label pictures from a table of breeds, and from one with a column of 0 and 1 for each class."""
    stems = [sha256(str(number).encode()).hexdigest()[:32] for number in range(config.rows)]
    pictures = [PictureFile(f"train/{stem}.jpg", 1, 1) for stem in stems]
    tables: dict[str, list[tuple[str, ...]]] = {
        "id, breed": [("id", "breed"), *((stem, f"breed {row % NUM_CLASSES}") for row, stem in enumerate(stems))],
        f"image and {NUM_COLUMNS} columns of 0 and 1": [
            ("image", *(f"class {column}" for column in range(NUM_COLUMNS))),
            *(
                (f"{stem}.jpg", *(str(int(row % (column + 3) == 0)) for column in range(NUM_COLUMNS)))
                for row, stem in enumerate(stems)
            ),
        ],
    }
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in tables.items():
            table = Path(folder) / "labels.csv"
            table.write_text("".join(",".join(row) + "\n" for row in rows))
            seconds[name] = statistics.median(_measure(Path(folder), pictures, table) for _ in range(NUM_REPEATS))
    rows = [(name, format_seconds(found)) for name, found in seconds.items()]
    console.show_table(f"{config.rows:,} rows, median of {NUM_REPEATS}", rows)
    return seconds


def _measure(folder: Path, pictures: list[PictureFile], table: Path) -> float:
    started = time.monotonic()
    label_pictures(folder, pictures, read_table(table))
    return time.monotonic() - started


if __name__ == "__main__":
    run_app(measure_labels, LabelsBenchmarkConfig, "python -m benchmarks.labels")
