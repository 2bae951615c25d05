"""Short form of the torture test of a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.short import run_preloaded

pytestmark = pytest.mark.torture


def test_store_after_faults_keeps_committed_rows_and_resumes(tmp_path: Path) -> None:
    results = run_preloaded("run", tmp_path)
    assert (results["crashes"], results["violations"]) == ([], [])
    assert results["flips_found"] + results["flips_unused"] == results["byte_flips"]
    assert results["flips_found"] > results["byte_flips"] // 2
    for trials in (
        "kills_at_calls",
        "kills_at_random_times",
        "kills_in_extraction",
        "failed_calls",
        "power_cuts",
        "byte_flips",
    ):
        assert results[trials] > 0, trials
