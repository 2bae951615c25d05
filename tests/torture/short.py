"""Run the short form of a torture test in a new process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_MEMORY = Path("/dev/shm")
"""File system in memory, where fsync takes no time."""


def run_preloaded(module: str, scratch: Path, *options: str) -> dict[str, Any]:
    """Run the short form with `faults.c` preloaded, and return its results.

    Args:
        module: `run` or `run_commands`.
        scratch: folder for the compiled library.
        options: further arguments of the module.
    """
    return run_short(module, *options, LD_PRELOAD=str(compile_faults(scratch / "faults.so")))


def run_short(module: str, *options: str, **variables: str) -> dict[str, Any]:
    """Run the short form of a module with additional environment variables, and return its results."""
    if os.access(_MEMORY, os.W_OK):
        variables["TMPDIR"] = str(_MEMORY)
    command = [sys.executable, "-m", f"tests.torture.{module}", "--short", *options]
    done = subprocess.run(command, env=os.environ | variables, cwd=ROOT, capture_output=True, check=False)
    assert done.stdout, done.stderr.decode(errors="replace")
    results: dict[str, Any] = json.loads(done.stdout)
    return results


def compile_faults(library: Path) -> Path:
    """Compile `faults.c`, and return the path of the library."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None, "this test needs a C compiler: apt-get install gcc libc6-dev"
    source = Path(__file__).with_name("faults.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library
