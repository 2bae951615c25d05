"""Locks of stores and targets."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from base.errors import NoLocksError, StoreLockedError
from base.lock import LOCK_NAME, hold_lock, hold_write_lock, is_locked, require_locks
from tests.errors import raises
from tests.files import remove_locks

pytestmark = pytest.mark.unit


def test_hold_write_lock_held_lock_is_an_error_with_the_process(tmp_path: Path) -> None:
    with hold_write_lock(tmp_path):
        assert is_locked(tmp_path)
        with raises(StoreLockedError, where=tmp_path) as caught, hold_write_lock(tmp_path):
            pytest.fail("locked twice")
        assert str(os.getpid()) in caught.value.got
    assert not is_locked(tmp_path)
    with hold_write_lock(tmp_path):
        assert is_locked(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "file", "missing"])
def test_is_locked_without_a_lock_is_false(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "store"
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_bytes(b"")
    assert not is_locked(path)
    assert not (path / LOCK_NAME).exists()


@pytest.mark.parametrize("is_removed", [True, False])
def test_hold_lock_file_is_removed_if_requested(tmp_path: Path, is_removed: bool) -> None:
    path = tmp_path / "lock"
    with hold_lock(path, tmp_path, is_removed=is_removed) as holder:
        assert holder == ""
        assert path.read_text().startswith(f"process {os.getpid()} on ")
    assert path.exists() != is_removed
    assert is_removed or path.read_bytes() == b""


def test_hold_lock_foreign_file_is_an_error_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("mine")
    with pytest.raises(FileExistsError), hold_lock(tmp_path / "lock", tmp_path):
        pytest.fail("locked")
    assert (tmp_path / "lock").read_text() == "mine"


def test_hold_lock_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"")
    (tmp_path / "lock").symlink_to("target")
    with pytest.raises(OSError), hold_lock(tmp_path / "lock", tmp_path):  # noqa: PT011
        pytest.fail("locked")
    assert (tmp_path / "target").read_bytes() == b""


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
@pytest.mark.parametrize("name", ["flock", "lockf"])
def test_hold_write_lock_without_locks_is_an_error_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, name: str
) -> None:
    remove_locks(monkeypatch, number, [name])
    with raises(NoLocksError, where=tmp_path) as caught, hold_write_lock(tmp_path):
        pytest.fail("locked")
    assert os.strerror(number) in caught.value.got
    assert list(tmp_path.iterdir()) == []
    assert not is_locked(tmp_path)


def test_hold_lock_without_locks_is_an_error_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove_locks(monkeypatch)
    with raises(NoLocksError, where=tmp_path / "out"), hold_lock(tmp_path / "lock", tmp_path / "out", is_removed=True):
        pytest.fail("locked")
    (tmp_path / "lock").write_text("mine")
    with raises(NoLocksError, where=tmp_path / "out"), hold_lock(tmp_path / "lock", tmp_path / "out", is_removed=True):
        pytest.fail("locked")
    assert (tmp_path / "lock").read_text() == "mine"


def test_require_locks_tries_the_nearest_existing_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_locks(tmp_path / "new/store")
    assert list(tmp_path.iterdir()) == []
    remove_locks(monkeypatch)
    with raises(NoLocksError, where=tmp_path / "new/store"):
        require_locks(tmp_path / "new/store")


def test_require_locks_of_a_folder_without_permission_is_no_error() -> None:
    require_locks(Path("/proc/headstart"))
