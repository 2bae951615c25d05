from __future__ import annotations

import pytest

from features.shards.size import MAX_ROWS_PER_SHARD, count_rows_per_shard

pytestmark = pytest.mark.unit


def test_count_rows_per_shard_is_at_most_1024_and_bounded_by_bytes() -> None:
    assert count_rows_per_shard((7, 7, 768)) == MAX_ROWS_PER_SHARD
    assert count_rows_per_shard((17, 17, 768)) == 128 * 2**20 // (17 * 17 * 768 * 2)
    assert count_rows_per_shard((10**6, 10**3)) == 1
