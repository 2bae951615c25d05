"""Time and memory of a command in its own process."""

from __future__ import annotations

from pathlib import Path

from benchmarks.process import run_module
from tests.features.stores import copy_store


def test_run_module_measures_the_peak_memory_of_a_command(tmp_path: Path) -> None:
    copy_store(tmp_path / "store", range(4))
    cost = run_module("features", ["check", str(tmp_path / "store")])
    assert 10**7 < cost.peak_bytes < 10**9
    assert cost.seconds > 0
