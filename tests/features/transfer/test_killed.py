"""Commands that are killed continue where they stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from base.errors import StoreMissingError
from features.store import FeatureStore
from tests.errors import raises
from tests.features.stores import find_all_problems
from tests.features.transfer.commands import list_shards, pull, push
from tests.servers import Bucket

ROOT = Path(__file__).parents[3]


def test_push_that_is_killed_leaves_no_catalog_and_continues(store: Path, bucket: Bucket) -> None:
    command = [sys.executable, "-m", "tests.features.transfer.killed", "3", "push", str(store), bucket.url]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert len(bucket.list_keys()) == 2
    assert "catalog.sqlite" not in bucket.list_keys()
    assert push(store, bucket.url)[:2] == (1, 2)


def test_pull_that_is_killed_continues(store: Path, tmp_path: Path) -> None:
    arguments = ["pull", str(store), str(tmp_path / "pulled")]
    command = [sys.executable, "-m", "tests.features.transfer.killed", "2", *arguments]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert [name[:8] for name in list_shards(tmp_path / "pulled")] == [".partial", "000001-c"]
    with raises(StoreMissingError):
        FeatureStore(tmp_path / "pulled")
    assert pull(store, tmp_path / "pulled")[:2] == (2, 1)
    assert list_shards(tmp_path / "pulled") == list_shards(store)
    assert find_all_problems(tmp_path / "pulled") == []
