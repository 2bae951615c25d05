"""Run a command in its own process, and list the heavy packages that it imports."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN_AND_LIST_IMPORTS = """
import atexit, json, runpy, sys
module = sys.argv.pop(1)
heavy = {"tensorflow", "keras"}
atexit.register(lambda: print(json.dumps(sorted(heavy & set(sys.modules))), file=sys.stderr))
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Finished:
    """Exit status, stdout and heavy imports of a command in its own process."""

    status: int
    out: str
    imported: list[str]


def run_process(module: str, *arguments: str | Path) -> Finished:
    """Run `python -m module` in its own process, and list which heavy packages it imported."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_LIST_IMPORTS, module, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return Finished(done.returncode, done.stdout, json.loads(done.stderr.splitlines()[-1]))
