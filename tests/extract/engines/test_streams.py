"""Distribution of the cores over batches and layers."""

from __future__ import annotations

import os

import pytest

from extract.engines import Streams, count_cores, plan_streams

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("num_cores", "num_streams", "num_threads"),
    [(1, 1, 1), (2, 2, 1), (4, 4, 1), (8, 8, 1), (16, 8, 8), (64, 8, 56)],
)
def test_plan_streams_uses_every_core(num_cores: int, num_streams: int, num_threads: int) -> None:
    assert plan_streams(num_cores) == Streams(num_cores, num_streams, num_threads)


def test_count_cores_returns_the_option_or_the_cores_of_the_process() -> None:
    assert count_cores(3) == 3
    assert count_cores(0) == len(os.sched_getaffinity(0))
