"""Skip tests on systems that lack what they need."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HANG_S = 600
"""Seconds after which a test gives up on a process, a thread or a server: only a hang takes so long, also if other
programs use all cores."""

needs_posix = pytest.mark.skipif(
    sys.platform == "win32", reason="needs the signals, pipes, permissions, paths or shell of POSIX"
)
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc or a call of Linux")


def make_pipe(path: Path) -> None:
    """Create a named pipe, or skip the running test on Windows."""
    skip_on_windows("named pipes in folders")
    os.mkfifo(path)


def skip_on_windows(missing: str) -> None:
    """Skip the running test on Windows, which lacks something: a noun phrase."""
    if sys.platform == "win32":
        pytest.skip(f"Windows has no {missing}")
