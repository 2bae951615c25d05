"""Atomic files, partial files and untrusted files."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections import namedtuple
from contextlib import nullcontext
from pathlib import Path

import pytest

from base.errors import StoreWriteError
from base.files import (
    PARTIAL_PREFIX,
    atomic_file,
    describe_file_system,
    find_partial_files,
    hash_file,
    is_mount,
    name_beside,
    read_regular_file,
    remove_tree,
    require_space,
    write_durably,
)
from tests.errors import raises
from tests.files import limit_file_size
from tests.systems import make_pipe, needs_linux

pytestmark = pytest.mark.unit


def test_write_durably_new_file_has_the_bytes(tmp_path: Path) -> None:
    write_durably(tmp_path / "a", b"\x00\x01" * 70_000)
    assert (tmp_path / "a").read_bytes() == b"\x00\x01" * 70_000
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_write_durably_existing_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old and longer")
    write_durably(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize("step", ["write", "fsync"])
def test_write_durably_failed_step_keeps_the_old_file_only(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if step == "fsync":
        monkeypatch.setattr(os, step, refuse)
    full_disk = limit_file_size(100_000) if step == "write" else nullcontext()
    with full_disk, pytest.raises(OSError) as caught:  # noqa: PT011 - the number is checked below
        write_durably(tmp_path / "a", bytes(200_000))
    assert caught.value.errno == (errno.EFBIG if step == "write" else errno.ENOSPC)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_atomic_file_interrupted_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def write_and_interrupt() -> None:
        with atomic_file(tmp_path / "a") as file:
            file.write(b"new")
            assert (tmp_path / "a").read_bytes() == b"old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_interrupt()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_atomic_file_replaces_an_old_partial_file_and_keeps_a_link_of_that_name(tmp_path: Path) -> None:
    (tmp_path / f"{PARTIAL_PREFIX}a").write_bytes(b"half")
    write_durably(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    (tmp_path / f"{PARTIAL_PREFIX}a").symlink_to("a")
    write_durably(tmp_path / "a", b"newer")
    assert (tmp_path / "a").read_bytes() == (tmp_path / f"{PARTIAL_PREFIX}a").read_bytes() == b"newer"


def test_find_partial_files_leaves_out_foreign_files_links_and_folders(tmp_path: Path) -> None:
    (tmp_path / f"{PARTIAL_PREFIX}x").write_bytes(b"half")
    (tmp_path / "whole").write_bytes(b"whole")
    (tmp_path / f"{PARTIAL_PREFIX}theirs").write_bytes(b"theirs")
    (tmp_path / f"{PARTIAL_PREFIX}folder").mkdir()
    (tmp_path / f"{PARTIAL_PREFIX}link").symlink_to("whole")
    found = find_partial_files(tmp_path, ("x", "folder", "link").__contains__)
    assert [path.name for path in found] == [f"{PARTIAL_PREFIX}x"]


def test_read_regular_file_above_the_limit_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert read_regular_file(tmp_path / "a", 3) == b"abc"
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is checked below
        read_regular_file(tmp_path / "a", 2)
    assert caught.value.errno == errno.EFBIG


@pytest.mark.parametrize("kind", ["pipe", "link", "device", "folder", "missing"])
def test_read_regular_file_other_kind_is_an_error_without_blocking(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    if kind == "pipe":
        make_pipe(path)
    elif kind == "link":
        (tmp_path / "b").write_bytes(b"abc")
        path.symlink_to(tmp_path / "b")
    elif kind == "device":
        path = Path(os.devnull)
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(OSError):  # noqa: PT011 - each kind has its own number
        read_regular_file(path, 10)


def test_hash_file_returns_the_digest_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("a")
    assert hash_file(tmp_path / "a") == hash_file(tmp_path / "link") == hashlib.sha256(b"abc").hexdigest()


def test_require_space_less_than_needed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2000, 1000, 1000))
    require_space(tmp_path, 1000)
    with raises(StoreWriteError, where=tmp_path, got="1,000") as caught:
        require_space(tmp_path, 1001)
    assert "1,001" in caught.value.expected


def test_remove_tree_removes_read_only_folders_and_keeps_link_targets(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target/a").write_bytes(b"mine")
    folder = tmp_path / "folder/inner"
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(b"")
    (folder / "link").symlink_to(tmp_path / "target")
    folder.chmod(0o555)
    remove_tree(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (tmp_path / "target/a").read_bytes() == b"mine"


@needs_linux
def test_describe_file_system_finds_the_innermost_and_last_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = [("/", "ext4"), (f"{tmp_path}/a\\040b", "nfs4"), (f"{tmp_path}/c", "nfs4"), (f"{tmp_path}/c", "lustre")]
    lines = [f"1 0 0:1 / {place} rw shared:1 - {kind} source rw\n" for place, kind in mounts]
    (tmp_path / "mountinfo").write_text("".join(lines))
    monkeypatch.setattr("base.files._MOUNTS", tmp_path / "mountinfo")
    assert describe_file_system(tmp_path / "a b/store") == f"nfs4 at {tmp_path}/a b"
    assert describe_file_system(tmp_path / "c") == f"lustre at {tmp_path}/c"
    assert describe_file_system(tmp_path / "a") == "ext4 at /"
    assert (is_mount(tmp_path / "a b"), is_mount(tmp_path / "a")) == (True, False)
    monkeypatch.setattr("base.files._MOUNTS", tmp_path / "missing")
    assert str(tmp_path) not in describe_file_system(tmp_path)


def test_write_durably_with_the_longest_name_leaves_only_the_file(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127 + "a")
    for content in (b"old", b"new"):
        write_durably(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_name_beside_long_names_stay_different_and_are_cut_once(tmp_path: Path) -> None:
    first, second = (name_beside(tmp_path / ("é" * 120 + end), ".partial-", "-2").name for end in "ab")
    assert first != second
    assert len(os.fsencode(first)) <= 255
    cut = tmp_path / first.removeprefix(".partial-").removesuffix("-2")
    assert name_beside(cut, ".", ".lock").name == f".{cut.name}.lock"
    assert name_beside(tmp_path / "a", ".", ".lock") == tmp_path / ".a.lock"
