"""Worker processes for timing: each is prepared for one engine and precision, and measures it on request.

TensorFlow sets its number of threads once per process, so each needs its own process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Self

from base.errors import HeadstartError

BATCH_SIZE, NUM_BATCHES, IMAGE_SIZE, CUT = 32, 16, 150, "mixed7"
KERAS = "keras"
"""Kind of the worker that measures plain Keras; the others are called ENGINE-PRECISION."""


class Source(StrEnum):
    """Source of the pictures of a measurement."""

    READY = "ready"
    """Batches in memory; nothing is stored."""
    FILES = "files"
    LARGE = "large"
    """Files of 12 megapixels."""


class Rate(NamedTuple):
    """Result of a measurement."""

    per_second: float
    """Pictures per second."""
    core_ms: float
    """Time of a core for one picture, in milliseconds; all threads of the process together."""


@dataclass(frozen=True)
class Task:
    """Kind of a worker, and its files."""

    kind: str
    weights: str
    scratch: Path
    """Folder with the pictures, in folders named after their source; the worker writes beside them."""


class Worker:
    """A worker process, as seen by its parent."""

    def __init__(self, task: Task) -> None:
        """Start the process, and wait until it is ready."""
        self._kind, self._log = task.kind, task.scratch / f"{task.kind}.log"
        command = [sys.executable, "-m", "benchmarks.timed_extraction", *map(str, vars(task).values())]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self._read()

    def _read(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            messages = self._log.read_text(errors="replace").splitlines() or [""]
            got, advice = f"status {self._process.wait()}: {messages[-1]}", "Leave it out with --kinds"
            raise HeadstartError(self._kind, "a measurement", got, advice)
        return line

    def measure(self, source: Source) -> Rate:
        """Run one measurement."""
        if self._process.stdin:
            self._process.stdin.write(f"{source}\n")
            self._process.stdin.flush()
        return Rate(*json.loads(self._read()))

    def __enter__(self) -> Self:
        """Return the worker."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
