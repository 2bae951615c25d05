"""What really happens to a store: readers during a write, few file handles, a read-only disk, an old journal."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from base.errors import ShardDamagedError, StoreWriteError
from features.catalog.catalog import CATALOG_NAME
from features.schema import FeatureStatus
from features.store import FeatureStore
from features.writer import FeatureWriter
from tests.features.stores import (
    fill_store,
    make_features,
    make_fingerprint,
    make_image,
    make_key,
    make_origin,
    make_writer,
)

ROOT = Path(__file__).parents[2]


def test_readers_during_a_write_see_whole_commits_and_never_wait(tmp_path: Path) -> None:
    fill_store(tmp_path, range(4))
    problems: list[str] = []
    sizes: list[int] = []
    done = threading.Event()

    def read_on() -> None:
        while not done.is_set():
            store = FeatureStore(tmp_path)
            sizes.append(len(store.examples))
            numbers = [int(Path(example.path).stem) for example in store.examples]
            expected = np.concatenate([make_features(range(number, number + 1)) for number in numbers])
            if not np.array_equal(store.read(store.examples), expected):
                problems.append(f"wrong features among {len(numbers)}")

    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        with make_writer(tmp_path) as writer:
            for start in range(4, 80, 4):
                numbers = range(start, start + 4)
                writer.add_features(
                    [make_key(number) for number in numbers], make_features(numbers), [FeatureStatus.OK] * 4
                )
                for number in numbers:
                    writer.add_image(make_image(number))
                writer.commit()
    finally:
        done.set()
        reader.join()
    assert problems == []
    assert sizes == sorted(sizes)
    assert set(sizes) <= set(range(4, 81, 4))
    assert len(FeatureStore(tmp_path).examples) == 80


def test_store_of_many_shards_is_read_with_few_file_handles(tmp_path: Path) -> None:
    fill_store(tmp_path, range(120), rows_per_shard=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    num_open = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (num_open + 12, hard))
    try:
        store = FeatureStore(tmp_path)
        features = store.read(sorted(store.examples, key=lambda example: example.path[-9:]))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    np.testing.assert_array_equal(features, make_features(range(120)))


def run_as_nobody(program: str, folder: Path) -> str:
    """Runs Python as a user who may read the folder and write nothing in it."""
    start = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from features.maintenance.check import find_problems\n"
        "from base.errors import StoreWriteError\n"
        "from features.packed.read import load_pack\n"
        "from features.store import FeatureStore\n"
        "from tests.features.stores import make_writer\n"
        "if os.getuid() == 0:\n    os.setuid(65534)\n"
    )
    command = [sys.executable, "-c", start + program, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    fill_store(tmp_path / "store", range(8))
    folder = Path("/tmp") / f"headstart-read-only-{os.getpid()}"
    shutil.copytree(tmp_path / "store", folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(folder)


def test_read_only_store_is_read_and_checked(read_only: Path) -> None:
    program = (
        "store = FeatureStore(Path(sys.argv[1]))\n"
        "print(store.read(store.examples).astype('f8').sum())\n"
        "print(find_problems(store.path, read_data=True, images=None, advance=lambda _: None))\n"
    )
    total, problems = run_as_nobody(program, read_only).splitlines()
    assert float(total) == make_features(range(8)).astype(np.float64).sum()
    assert problems == "[]"


def test_read_only_store_is_not_written_and_says_so(read_only: Path) -> None:
    program = (
        "try:\n    make_writer(Path(sys.argv[1])).__enter__()\nexcept StoreWriteError as error:\n    print(error)\n"
    )
    assert "Permission denied" in run_as_nobody(program, read_only)


def test_reader_of_a_store_whose_writer_was_killed_in_a_commit_sees_the_state_before_it(tmp_path: Path) -> None:
    store = tmp_path / "store"
    fill_store(store, range(4))
    program = (
        "import os, pathlib, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA cache_size=1')\n"
        "db.execute('BEGIN IMMEDIATE')\n"
        "db.execute('DELETE FROM images')\n"
        "db.execute('PRAGMA cache_spill=1')\n"
        "db.execute('CREATE TABLE filler AS WITH RECURSIVE n(i) AS"
        " (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 9000) SELECT i, randomblob(200) FROM n')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, store / CATALOG_NAME], check=False)
    assert done.returncode == -9
    assert (store / f"{CATALOG_NAME}-journal").stat().st_size > 0
    assert [example.path for example in FeatureStore(store).examples] == [
        make_image(number).path for number in (0, 2, 1, 3)
    ]


def test_writer_without_room_for_its_first_byte_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StoreWriteError, match="a full disk"), make_writer(tmp_path / "new"):
        pass


def test_catalog_with_a_journal_in_a_read_only_place_says_so(read_only: Path) -> None:
    read_only.chmod(0o755)
    catalog = sqlite3.connect(read_only / CATALOG_NAME, isolation_level=None)
    catalog.execute("PRAGMA cache_size=1")
    catalog.execute("BEGIN IMMEDIATE")
    catalog.executemany("INSERT INTO meta VALUES (?, ?, 0)", [(str(n), "y" * 500) for n in range(500)])
    journal = read_only / f"{CATALOG_NAME}-journal"
    held = {path: path.read_bytes() for path in (read_only / CATALOG_NAME, journal)}
    catalog.execute("ROLLBACK")
    catalog.close()
    for path, data in held.items():
        path.write_bytes(data)
        path.chmod(0o444)
    read_only.chmod(0o555)
    program = "try:\n    FeatureStore(Path(sys.argv[1]))\nexcept StoreWriteError as error:\n    print(error.got)\n"
    assert "read-only" in run_as_nobody(program, read_only)
    assert journal.exists()


def count_bytes_read() -> int:
    (line,) = [line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar:")]
    return int(line.split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs Linux's count of bytes read")
def test_shards_read_in_random_blocks_are_hashed_once_each(tmp_path: Path) -> None:
    shape = (7, 7, 32)
    with FeatureWriter(tmp_path, make_fingerprint(), make_origin(shape), rows_per_shard=100) as writer:
        numbers = range(1000)
        writer.add_features([make_key(n) for n in numbers], make_features(numbers, shape), [FeatureStatus.OK] * 1000)
        for number in numbers:
            writer.add_image(make_image(number))
        writer.commit()
    store = FeatureStore(tmp_path)
    examples = sorted(store.examples, key=lambda example: example.content_hash)
    # Files that were written a moment ago are hashed again: their times may not show another write.
    time.sleep(0.2)
    before = count_bytes_read()
    for start in range(0, 1000, 50):
        store.read(examples[start : start + 50])
    # Once to hash all of it, once to read its rows, and twenty times the chunk index of each shard.
    assert count_bytes_read() - before < 4 * sum(shard.num_bytes for shard in store.shards)


@pytest.mark.parametrize("how", ["flipped", "replaced", "a link", "a pipe"])
def test_shard_that_is_changed_after_it_was_read_is_refused(tmp_path: Path, how: str) -> None:
    fill_store(tmp_path / "store", range(8))
    store = FeatureStore(tmp_path / "store")
    time.sleep(0.2)
    for _ in range(2):
        store.read(store.examples)
    path = tmp_path / "store" / "shards" / store.shards[1].name
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
        (tmp_path / "copy").write_bytes(data)
        data[len(data) // 2] ^= 1
        match how:
            case "replaced":
                path.write_bytes(data)
            case "a link":
                path.symlink_to(tmp_path / "copy")
            case "a pipe":
                os.mkfifo(path)
    with pytest.raises(ShardDamagedError) as caught:
        store.read(store.examples)
    assert caught.value.where == path
