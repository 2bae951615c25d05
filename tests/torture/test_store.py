"""Short form of the torture test of a store."""

from __future__ import annotations

from pathlib import Path

from tests.torture.preloaded import run_short


def test_store_after_faults_keeps_committed_rows_and_resumes(tmp_path: Path) -> None:
    results = run_short("run", tmp_path)
    assert (results["crashes"], results["violations"]) == ([], [])
    assert results["flips_found"] + results["flips_unused"] == results["byte_flips"]
    assert results["flips_found"] > results["byte_flips"] // 2
    for trials in ("kills_at_calls", "kills_at_random_times", "failed_calls", "power_cuts", "byte_flips"):
        assert results[trials] > 0, trials
