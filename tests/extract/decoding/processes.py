"""Run programs that decode pictures in a new process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run_program(program: str, *arguments: Path) -> list[str]:
    """Run a program in a new Python process, and return the lines that it printed; stderr must be empty."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()
