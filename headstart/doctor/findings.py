"""Findings of a check: what was found, whether it is a problem, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

REINSTALL = "Install Headstart's packages again, best in a new environment"
"""Advice for a missing or broken package."""


class Status(StrEnum):
    """Status of a finding."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    value: str
    status: Status = Status.OK
    advice: str = ""
    """Imperative sentence without its full stop; empty if there is nothing to do."""


def run_check(name: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Run a check, and return its findings; a failure of the check itself becomes a problem.

    Args:
        name: name of the finding for a failure.
        check: function that returns the findings or yields them.
    """
    found: list[Finding] = []
    try:
        found.extend(check())
    except Exception as error:
        # Broken packages raise any exception when they are imported.
        is_missing = isinstance(error, ModuleNotFoundError)
        advice = REINSTALL if is_missing else "Fix the cause, or report it with this output"
        found.append(Finding(name, f"this check failed: {describe_error(error)}", Status.PROBLEM, advice))
    return found


def describe_error(error: BaseException) -> str:
    """Describe an exception as one line: its class, and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
