"""The real commands in processes of their own, as a user starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
EXTRACT, TRAIN, PREDICT = "extract", "train_head", "train_head.predict"
SMALL = ["--weights", "random", "--image-size", "75", "--cut", "mixed0"]
"""What of extraction costs least."""

DROP_PRIVILEGES = """
import ctypes, os, runpy, sys
if os.geteuid() == 0:
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for capability in (1, 2):  # to read, and to search, whatever permissions say
        if prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
            raise OSError(ctypes.get_errno(), "the capability is kept")
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Root may read everything; without these two capabilities it is denied what others are."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @cached_property
    def result(self) -> dict[str, Any]:
        """The object that `--json` printed."""
        assert self.out.count("\n") == 1, self.err
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def reasons(self) -> dict[str, str]:
        """The failed pictures with their reasons; each is there once."""
        found = {failed["image"]: failed["reason"] for failed in self.result["failed"]}
        assert len(found) == len(self.result["failed"])
        return found


def start(
    module: str, *arguments: object, denied: bool = False, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a command.

    Args:
        module: after `python -m`.
        arguments: of the command line.
        denied: whether permissions hold, also for root.
        environment: beside what there is.
    """
    words: Sequence[object] = ["-m", module, *arguments]
    return subprocess.Popen(
        [sys.executable, *(["-c", DROP_PRIVILEGES] if denied else []), *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"COLUMNS": "500"} | dict(environment or {}),
    )


def finish(process: subprocess.Popen[bytes]) -> Done:
    """Waits for a command's end."""
    with process:
        out, err = process.communicate(timeout=120)
    return Done(process.returncode, out.decode(), err.decode())


def run(module: str, *arguments: object, denied: bool = False) -> Done:
    """Runs a command to its end."""
    return finish(start(module, *arguments, denied=denied))
