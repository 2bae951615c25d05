"""Faults of a store in use: concurrent writes, few file handles, a read-only disk, killed writers, changed shards."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from base.errors import ShardDamagedError, StoreWriteError
from features.catalog.catalog import CATALOG_NAME
from features.shards import shard as shard_module
from features.store import FeatureStore
from features.store_writer import FeatureWriter
from tests.errors import raises
from tests.features.stores import (
    add_features,
    copy_store,
    fill_store,
    find_all_problems,
    flip_byte,
    make_features,
    make_fingerprint,
    make_image,
    make_origin,
    make_writer,
    read_sorted,
)
from tests.files import read_files, remove_locks
from tests.systems import make_pipe, needs_linux, needs_posix, skip_on_windows

NOBODY = 65534


def test_readers_during_a_write_see_whole_commits(tmp_path: Path) -> None:
    copy_store(tmp_path, range(4))
    problems: list[str] = []
    sizes: list[int] = []
    done = threading.Event()

    def read_repeatedly() -> None:
        while not done.is_set():
            store = FeatureStore(tmp_path)
            sizes.append(len(store.examples))
            numbers = [int(Path(example.path).stem) for example in store.examples]
            if not np.array_equal(store.read(store.examples), make_features(numbers)):
                problems.append(f"wrong features among {len(numbers)}")

    reader = threading.Thread(target=read_repeatedly)
    reader.start()
    try:
        with make_writer(tmp_path) as writer:
            for start in range(4, 60, 4):
                add_features(writer, range(start, start + 4))
                for number in range(start, start + 4):
                    writer.add_image(make_image(number))
                writer.commit()
    finally:
        done.set()
        reader.join()
    assert problems == []
    assert sizes == sorted(sizes)
    assert set(sizes) <= set(range(4, 61, 4))
    assert len(FeatureStore(tmp_path).examples) == 60


@needs_linux
def test_read_many_shards_needs_few_file_handles(tmp_path: Path) -> None:
    import resource

    fill_store(tmp_path, range(30), rows_per_shard=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    num_open = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (num_open + 12, hard))
    try:
        features = read_sorted(FeatureStore(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    np.testing.assert_array_equal(features, make_features(range(30)))


@contextmanager
def act_as_nobody() -> Iterator[None]:
    """Drop the permissions of root, if the tests run as root."""
    skip_on_windows("permissions of a folder that prevent writing")
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def read_only() -> Iterator[Path]:
    """Folder of a store that other users can read; it is outside pytest's private folder."""
    with tempfile.TemporaryDirectory(prefix="headstart-read-only-") as parent:
        folder = copy_store(Path(parent) / "store", range(8))
        for path in [folder.parent, folder, *folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield folder
        for path in [folder.parent, folder, *folder.rglob("*")]:
            path.chmod(0o755)


def test_read_only_store_is_read_and_checked(read_only: Path) -> None:
    with act_as_nobody():
        np.testing.assert_array_equal(read_sorted(FeatureStore(read_only)), make_features(range(8)))
        assert find_all_problems(read_only) == []


def test_writer_read_only_store_is_an_error(read_only: Path) -> None:
    with act_as_nobody(), raises(StoreWriteError, where=read_only) as caught:
        make_writer(read_only).__enter__()
    assert "Permission denied" in caught.value.got


def interrupt_write(store: Path) -> list[Path]:
    """Leave a catalog and its journal as after a process was killed in a transaction, and return their paths."""
    path, journal = store / CATALOG_NAME, store / f"{CATALOG_NAME}-journal"
    catalog = sqlite3.connect(path, isolation_level=None)
    catalog.execute("PRAGMA cache_size=1")
    catalog.execute("BEGIN IMMEDIATE")
    catalog.executemany("INSERT INTO meta VALUES (?, ?, 0)", [(str(n), "y" * 500) for n in range(500)])
    unfinished = {file: file.read_bytes() for file in (path, journal)}
    catalog.execute("ROLLBACK")
    catalog.close()
    for file, data in unfinished.items():
        file.write_bytes(data)
    return list(unfinished)


def test_catalog_with_a_journal_in_a_read_only_folder_is_an_error(read_only: Path) -> None:
    read_only.chmod(0o755)
    (read_only / CATALOG_NAME).chmod(0o644)
    path, journal = interrupt_write(read_only)
    for file in (path, journal):
        file.chmod(0o444)
    read_only.chmod(0o555)
    with act_as_nobody(), raises(StoreWriteError, where=path):
        FeatureStore(read_only)
    assert journal.exists()


def test_catalog_with_a_journal_on_a_file_system_without_locks_is_an_error_and_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal may be that of a running process on another computer."""
    store = copy_store(tmp_path / "store", range(4))
    path, _ = interrupt_write(store)
    before = read_files(store)
    with monkeypatch.context() as patch:
        remove_locks(patch)
        with raises(StoreWriteError, where=path):
            FeatureStore(store)
    assert read_files(store) == before
    assert len(FeatureStore(store).examples) == 4


@needs_posix
def test_reader_after_a_writer_was_killed_in_a_commit_sees_the_previous_state(tmp_path: Path) -> None:
    store = copy_store(tmp_path / "store", range(4))
    program = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA cache_size=1')\n"
        "db.execute('BEGIN IMMEDIATE')\n"
        "db.execute('DELETE FROM images')\n"
        "db.execute('PRAGMA cache_spill=1')\n"
        "db.execute('CREATE TABLE filler AS WITH RECURSIVE n(i) AS"
        " (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 9000) SELECT i, randomblob(200) FROM n')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-S", "-c", program, store / CATALOG_NAME], check=False)
    assert done.returncode == -9
    assert (store / f"{CATALOG_NAME}-journal").stat().st_size > 0
    assert [example.path for example in FeatureStore(store).examples] == [
        make_image(number).path for number in (0, 2, 1, 3)
    ]


def count_bytes_read() -> int:
    (line,) = [line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar:")]
    return int(line.split()[1])


def let_timestamps_age() -> None:
    """Wait until a further write would change the timestamps of the shards; then each is verified only once."""
    time.sleep(0.12)


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs /proc/self/io")
def test_read_random_blocks_hashes_each_shard_once(tmp_path: Path) -> None:
    shape = (7, 7, 128)
    with FeatureWriter(tmp_path, make_fingerprint(), make_origin(shape), rows_per_shard=20) as writer:
        add_features(writer, range(100), shape=shape)
        for number in range(100):
            writer.add_image(make_image(number))
        writer.commit()
    store = FeatureStore(tmp_path)
    examples = sorted(store.examples, key=lambda example: example.content_hash)
    let_timestamps_age()
    before = count_bytes_read()
    for start in range(0, 100, 10):
        store.read(examples[start : start + 10])
    # All bytes are read twice, to hash them and to decompress them, and the chunk index of each shard ten times.
    assert count_bytes_read() - before < 4 * sum(shard.num_bytes for shard in store.shards)


def test_shard_written_just_now_is_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_module, "detects_writes", lambda _: False)
    store = FeatureStore(copy_store(tmp_path / "store", range(4)))
    before = count_bytes_read()
    for _ in range(5):
        store.read(store.examples)
    assert count_bytes_read() - before >= 5 * store.shards[0].num_bytes


@pytest.mark.parametrize("change", ["flipped", "replaced", "link", "pipe"])
def test_read_shard_changed_after_the_first_read_is_an_error(tmp_path: Path, change: str) -> None:
    store = FeatureStore(copy_store(tmp_path / "store", range(8)))
    let_timestamps_age()
    for _ in range(2):
        store.read(store.examples)
    path = tmp_path / "store" / "shards" / store.shards[1].name
    copy = Path(shutil.copy(path, tmp_path / "copy"))
    if change != "flipped":
        path.unlink()
    match change:
        case "flipped":
            flip_byte(path, path.stat().st_size // 2)
        case "replaced":
            flip_byte(copy, copy.stat().st_size // 2)
            copy.rename(path)
        case "link":
            path.symlink_to(copy)
        case "pipe":
            make_pipe(path)
    with raises(ShardDamagedError, where=path):
        store.read(store.examples)
