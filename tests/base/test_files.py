"""Whole files or none."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from base.files import PARTIAL_PREFIX, atomic_file, read_regular_file, remove_partial_files, write_durably


def test_write_durably_new_file_has_exactly_the_bytes(tmp_path: Path) -> None:
    write_durably(tmp_path / "a", b"\x00\x01" * 70_000)
    assert (tmp_path / "a").read_bytes() == b"\x00\x01" * 70_000
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_write_durably_existing_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old and longer")
    write_durably(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize("step", ["write", "fsync"])
def test_write_durably_refused_by_the_disk_leaves_the_old_file_and_no_leftover(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    if step == "write":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    else:
        monkeypatch.setattr(os, step, refuse)
    try:
        with pytest.raises(OSError, match=r"No space left|File too large"):
            write_durably(tmp_path / "a", bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_atomic_file_interrupted_keeps_the_old_one(tmp_path: Path) -> None:
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


def test_atomic_file_replaces_what_an_interrupted_write_left_and_avoids_others_entries(tmp_path: Path) -> None:
    (tmp_path / f"{PARTIAL_PREFIX}a").write_bytes(b"half")
    write_durably(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    (tmp_path / f"{PARTIAL_PREFIX}a").symlink_to("a")
    write_durably(tmp_path / "a", b"newer")
    assert (tmp_path / "a").read_bytes() == (tmp_path / f"{PARTIAL_PREFIX}a").read_bytes() == b"newer"


def test_remove_partial_files_removes_those_alone(tmp_path: Path) -> None:
    (tmp_path / f"{PARTIAL_PREFIX}x").write_bytes(b"half")
    (tmp_path / "whole").write_bytes(b"whole")
    (tmp_path / f"{PARTIAL_PREFIX}theirs").write_bytes(b"theirs")
    (tmp_path / f"{PARTIAL_PREFIX}folder").mkdir()
    (tmp_path / f"{PARTIAL_PREFIX}link").symlink_to("whole")
    removed = remove_partial_files(tmp_path, ("x", "folder", "link").__contains__)
    assert [path.name for path in removed] == [f"{PARTIAL_PREFIX}x"]
    kept = ["whole", *(f"{PARTIAL_PREFIX}{name}" for name in ("theirs", "folder", "link"))]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_read_regular_file_gives_its_bytes_up_to_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert read_regular_file(tmp_path / "a", 3) == b"abc"
    with pytest.raises(OSError, match="3 bytes") as raised:
        read_regular_file(tmp_path / "a", 2)
    assert raised.value.errno == errno.EFBIG


@pytest.mark.parametrize("kind", ["fifo", "link", "device", "folder", "nothing"])
def test_read_regular_file_of_anything_else_is_an_error_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "b").write_bytes(b"abc")
        path.symlink_to(tmp_path / "b")
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(OSError):  # noqa: PT011 - each kind has its own number
        read_regular_file(path, 10)
