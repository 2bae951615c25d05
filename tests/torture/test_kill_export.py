"""Short form of the torture test of exports that are killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.kill_export import kill_exports
from train_head.export.config import Format

pytestmark = pytest.mark.torture


def test_export_killed_at_random_moments_leaves_the_old_or_the_new_export(tmp_path: Path) -> None:
    counts = kill_exports(tmp_path, [Format.KERAS, Format.SAVED_MODEL], num_kills=1, seed=1)
    assert sum(counts.values()) == 1
