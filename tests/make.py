"""Run make. Instead of Python, a program runs that records its arguments."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

END_OF_CALL = "\x01"
RECORD_ARGUMENTS = """#!/bin/sh
printf '%s\\0' "$@" '\x01' >> calls
exit "${STATUS:-0}"
"""
"""Program in place of Python; its exit status is that in the variable STATUS."""


@dataclass(frozen=True)
class MakeResult:
    """Exit status and output of make, and the arguments of each Python process that it started."""

    status: int
    out: str
    err: str
    calls: list[list[str]]

    @property
    def call(self) -> list[str]:
        """Arguments of the only call."""
        (call,) = self.calls
        return call

    def get(self, option: str) -> str | None:
        """Return the value of an option of the only call; None if it is missing."""
        return self.call[self.call.index(option) + 1] if option in self.call else None


def make(checkout: Path, *arguments: str, **environment: str) -> MakeResult:
    """Run make in a folder whose program in place of Python is `RECORD_ARGUMENTS`."""
    # `make test` exports its own variables to the tests. They must not change the inner make.
    outer = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "GNUMAKE"))}
    done = subprocess.run(
        ["make", "RUNTIME=", "DEV=", *arguments],
        cwd=checkout,
        # A shell sets PWD to its folder.
        env=outer | {"PWD": str(checkout)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    calls = checkout / "calls"
    words = os.fsdecode(calls.read_bytes()).split("\0")[:-1] if calls.exists() else []
    calls.unlink(missing_ok=True)
    records: list[list[str]] = [[]]
    for word in words:
        records[-1:] = [records[-1], []] if word == END_OF_CALL else [[*records[-1], word]]
    return MakeResult(done.returncode, done.stdout, done.stderr, records[:-1])
