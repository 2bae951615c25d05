"""Short form of the torture test of commands that replace results."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.commands import WORKLOADS
from tests.torture.short import run_preloaded

pytestmark = pytest.mark.torture

SIMILAR = {"train", "sweep", "compare"}
"""Slow commands that only `make torture` runs; they write runs in the same way as `overwrite`."""


def test_commands_after_faults_leave_the_old_or_the_new_result(tmp_path: Path) -> None:
    names = [name for name in WORKLOADS if name not in SIMILAR]
    found = run_preloaded("run_commands", tmp_path, "--only", ",".join(names))
    assert list(found) == names
    for name, results in found.items():
        assert (results["crashes"], results["violations"]) == ([], []), name
        assert results["signals_at_random_times"] + results["signals_at_calls"] > 0, name
        assert results["failed_calls"] > 0, name
