"""Measure the time and peak memory of a command in its own process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_PROGRAM = """
import atexit, runpy, sys
from benchmarks.process import read_peak_bytes
# A command ends its process without the blocks `finally`.
atexit.register(lambda: print(read_peak_bytes(), file=sys.__stdout__, flush=True))
module, sys.argv = sys.argv[1], sys.argv[1:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
"""Program that runs a module and prints its peak memory. wait4(2) would include the memory of the parent process."""


class Cost(NamedTuple):
    """Duration and peak memory of a process."""

    seconds: float
    peak_bytes: int


def run_module(module: str, arguments: Sequence[str]) -> Cost:
    """Run `python -m module --quiet`, and measure it.

    Raises:
        CalledProcessError: the exit status is not 0.
    """
    started = time.monotonic()
    command = [sys.executable, "-c", _PROGRAM, module, *arguments, "--quiet"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Cost(time.monotonic() - started, int(done.stdout.split()[-1]))


def read_peak_bytes() -> int:
    """Return the peak memory of this process and of its child processes that still run, in bytes."""
    threads = Path("/proc/self/task").iterdir()
    children = [child for thread in threads for child in (thread / "children").read_text().split()]
    peaks = 0
    for process in ("self", *children):
        lines = Path("/proc", process, "status").read_text().splitlines()
        peaks += next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return peaks
