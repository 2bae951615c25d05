"""Runs a command as a user does, and measures the whole process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

_PROGRAM = """
import runpy, sys
try:
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
finally:
    with open("/proc/self/status") as status:
        sys.__stdout__.write(next(line for line in status if line.startswith("VmHWM")))
"""
"""Asks at the end for the peak memory since the program was loaded: wait4(2) also counts the parent's before it."""


class Cost(NamedTuple):
    """What a process cost."""

    seconds: float
    peak_bytes: int


def run_module(module: str, arguments: Sequence[str]) -> Cost:
    """Runs `python -m module` quietly to its end.

    Raises:
        CalledProcessError: its exit status was not 0.
    """
    started = time.monotonic()
    command = [sys.executable, "-c", _PROGRAM, module, *arguments, "--quiet"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Cost(time.monotonic() - started, int(done.stdout.split()[-2]) * 1024)
