"""Differences between operating systems. The branches of Windows run there, or here where they need nothing of it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from io import FileIO
from pathlib import Path

import pytest

from base import system
from tests.systems import needs_linux

pytestmark = pytest.mark.unit


def open_new(path: Path) -> FileIO:
    return FileIO(system.open_file(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), "r+")


def test_lock_second_descriptor_is_refused_and_reads_the_content(tmp_path: Path) -> None:
    with open_new(tmp_path / "a") as first, open_new(tmp_path / "a") as second:
        assert system.lock(first.fileno())
        system.write_at(first.fileno(), b"holder", 0)
        assert not system.lock(second.fileno())
        assert system.is_lock_held(second.fileno())
        assert system.read_at(second.fileno(), 99, 0) == b"holder"
        first.close()
        assert not system.is_lock_held(second.fileno())
        assert system.lock(second.fileno())


def test_write_at_and_read_at_use_their_own_offsets(tmp_path: Path) -> None:
    with open_new(tmp_path / "a") as file:
        assert (system.write_at(file.fileno(), b"cd", 2), system.write_at(file.fileno(), b"ab", 0)) == (2, 2)
        assert system.read_at(file.fileno(), 9, 1) == b"bcd"
        target = bytearray(3)
        assert system.read_into(file.fileno(), memoryview(target), 2) == 2
        assert target == b"cd\0"


def test_open_file_refuses_a_link_unless_it_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is checked below
        system.open_file(tmp_path / "link", os.O_RDONLY)
    assert caught.value.errno == errno.ELOOP
    os.close(system.open_file(tmp_path / "link", os.O_RDONLY, follow=True))


def test_rename_open_returns_a_file_with_the_new_name(tmp_path: Path) -> None:
    file = open_new(tmp_path / "a")
    file.write(b"abc")
    (tmp_path / "b").write_bytes(b"old")
    with system.rename_open(file, tmp_path / "a", tmp_path / "b") as renamed:
        system.write_at(renamed.fileno(), b"x", 0)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("b", b"xbc")]


def test_rename_of_a_file_that_is_open_elsewhere_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"new")
    tries = []

    def replace(source: Path, target: Path) -> None:
        tries.append(target)
        if len(tries) < 3:
            raise PermissionError(errno.EACCES, "open elsewhere")
        os.replace(source, target)  # noqa: PTH105 - the method is replaced

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(sys, "platform", "win32")
    system.rename(tmp_path / "a", tmp_path / "b")
    assert (len(tries), (tmp_path / "b").read_bytes()) == (3, b"new")


@needs_linux
def test_exchange_swaps_two_folders(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not system.exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange names")
    assert (tmp_path / "a" / "b").exists()
    assert (tmp_path / "b" / "a").exists()


def test_is_running_ended_process_is_not() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert system.is_running(process.pid)
    assert not system.is_running(process.pid)
    assert system.is_running(os.getpid())


@pytest.mark.parametrize(
    ("name", "fixed"),
    [
        ("cats", "cats"),
        ("a:b?", "a_b_"),
        ("con", "_con"),
        ("NUL.txt", "_NUL.txt"),
        ("end.", "end_"),
        ("comet", "comet"),
    ],
)
def test_replace_forbidden_on_windows_gives_a_valid_name(
    name: str, fixed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert system.replace_forbidden(name) == fixed
    monkeypatch.setattr(sys, "platform", "linux")
    assert system.replace_forbidden(name) == name


def test_read_process_age_is_positive_and_grows() -> None:
    first = system.read_process_age()
    assert 0 < first <= system.read_process_age()
