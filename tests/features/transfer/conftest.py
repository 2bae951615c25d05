"""Stores to push, and a copy of one in a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.features.stores import copy_store
from tests.features.transfer.commands import push
from tests.servers import Bucket


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Store of ten pictures in three shards."""
    return copy_store(tmp_path / "store", range(10))


@pytest.fixture
def url(store: Path, bucket: Bucket) -> str:
    """URL of a copy of `store` in a bucket."""
    push(store, f"{bucket.url}/team/cats")
    return f"{bucket.url}/team/cats"
