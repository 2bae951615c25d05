"""Short form of the fuzz test of input files."""

from __future__ import annotations

import pytest

from tests.torture.short import run_short

pytestmark = pytest.mark.torture


def test_mutated_files_do_not_crash_and_each_rejected_file_is_reported_once() -> None:
    results = run_short("hostile")
    assert (results["crashes"], results["violations"]) == ([], [])
    assert results["pictures"] == 170
    assert 50 < results["pictures_rejected"] < 170
    assert results["files"] == {"shard": 30, "pack": 30, "model": 20}
    assert all(0 < results["rejected"][kind] < count for kind, count in results["files"].items())
