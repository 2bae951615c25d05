"""Pictures without permission, deleted or changed since the scan, and paths that are too long."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from base.regular import FileIdentity, RegularFile
from extract.decoding.read import UndecodableImageError, read_picture
from extract.images.scan import Scan, scan_images
from extract.result import ExtractResult
from tests.commands import CommandResult, run_command
from tests.extract.extraction import extract
from tests.inputs.folders import (
    SMALL,
    draw_new,
    list_predicted,
    list_reasons,
    list_stored,
    predict,
    put_pictures,
    respect_permissions,
)

CHANGED = "a file that changed while it was read"

# Permissions.

LOCKABLE = [
    *("cats/0.jpg", "cats/1.jpg", "cats/2.jpg", "cats/closed/0.jpg"),
    *("dogs/0.jpg", "dogs/1.jpg", "dogs/2.jpg", "dogs/listed/0.jpg"),
]
MODES = {"cats/1.jpg": 0o000, "dogs/2.jpg": 0o200, "cats/closed": 0o000, "dogs/listed": 0o444}
OPEN = ["cats/0.jpg", "cats/2.jpg", "dogs/0.jpg", "dogs/1.jpg"]


@dataclass(frozen=True)
class Locked:
    """Results of commands on a folder with unreadable files and folders; permissions were restored afterwards."""

    folder: Path
    store: Path
    extract: CommandResult
    predict: CommandResult


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Locked:
    folder = tmp_path_factory.mktemp("locked") / "pictures"
    put_pictures(folder, LOCKABLE)
    for path, mode in MODES.items():
        (folder / path).chmod(mode)
    store = folder.parent / "store"
    with respect_permissions():
        extracted = run_command(
            "extract.__main__", "--images", folder, "--store", store, *SMALL, "--max-bad", 1, "--json"
        )
        predicted = run_command("train_head.predict.__main__", "--model", tiny_model, folder, "--json")
    for path in ("cats/closed", "dogs/listed", "cats/1.jpg", "dogs/2.jpg"):
        (folder / path).chmod(0o755)
    return Locked(folder, store, extracted, predicted)


def test_extract_files_without_permission_are_failed(locked: Locked) -> None:
    assert locked.extract.status == 0, locked.extract.err
    reasons = list_reasons(locked.extract.json["failed"])
    assert sorted(reasons) == ["cats/1.jpg", "dogs/2.jpg"]
    assert all("Permission denied" in reason for reason in reasons.values())


def test_extract_folders_without_permission_are_skipped(locked: Locked) -> None:
    reasons = list_reasons(locked.extract.json["skipped"], "path")
    assert sorted(reasons) == ["cats/closed", "dogs/listed/0.jpg"]
    assert all("Permission denied" in reason for reason in reasons.values())


def test_extract_after_permission_is_restored_computes_the_missing_features(locked: Locked, tmp_path: Path) -> None:
    store = shutil.copytree(locked.store, tmp_path / "store")
    assert list_stored(store) == OPEN
    result = extract(locked.folder, store, max_bad=1.0)
    assert (result.computed, result.reused, result.failed, result.skipped) == (4, 4, [], [])
    assert list_stored(store) == LOCKABLE


def test_predict_without_permission_for_some_files_classifies_the_others(locked: Locked) -> None:
    assert locked.predict.status == 1
    assert list_predicted(locked.predict.json, locked.folder) == OPEN
    failed = list_reasons(locked.predict.json["failed"], folder=locked.folder)
    skipped = list_reasons(locked.predict.json["skipped"], folder=locked.folder)
    assert {"cats/1.jpg", "dogs/2.jpg"} <= failed.keys()
    assert sorted([*failed, *skipped]) == ["cats/1.jpg", "cats/closed", "dogs/2.jpg", "dogs/listed/0.jpg"]
    assert all("Permission denied" in reason for reason in failed.values())


# Changed between scan and reading, or while it is read.

Change = Callable[[Path], object]


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def touch(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


WHILE_READ: dict[str, Change] = {
    "cats/longer.jpg": append,
    "cats/shorter.jpg": lambda path: os.truncate(path, 100),
    "dogs/emptied.jpg": lambda path: os.truncate(path, 0),
    "dogs/rewritten.jpg": touch,
}


def replace_by(make: Change) -> Change:
    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


AFTER_SCAN: dict[str, tuple[Change, str]] = {
    "cats/pipe.jpg": (replace_by(os.mkfifo), "Not a regular file"),
    "cats/gone.jpg": (Path.unlink, "No such file"),
    "cats/device.jpg": (replace_by(lambda path: path.symlink_to("/dev/zero")), "Not a regular file"),
    "dogs/loop.jpg": (replace_by(lambda path: path.symlink_to(path)), "symbolic links"),
    "dogs/folder.jpg": (replace_by(Path.mkdir), "Not a regular file"),
}
"""Changes after the scan, with a term of each reason."""


def change_while_read(patch: pytest.MonkeyPatch, changes: dict[Path, Change]) -> None:
    """Change each file once, after its identity was recorded and before it is read."""
    pending = {path.stat().st_ino: (path, change) for path, change in changes.items()}
    identify = RegularFile.identify

    def identify_then_change(file: RegularFile) -> FileIdentity:
        identity = identify(file)
        if identity.inode in pending:
            path, change = pending.pop(identity.inode)
            change(path)
        return identity

    patch.setattr(RegularFile, "identify", identify_then_change)


@dataclass(frozen=True)
class Moving:
    """Results of a run during which the folder changed, and of the next run."""

    store: Path
    first: ExtractResult
    second: ExtractResult


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Moving:
    folder = tmp_path_factory.mktemp("moving")
    images, store = folder / "images", folder / "store"
    put_pictures(images, [*WHILE_READ, *AFTER_SCAN, "cats/kept.jpg", "dogs/kept.jpg"])

    def scan_then_change(images: Path, *arguments: Any) -> Scan:
        scan = scan_images(images, *arguments)
        for path, (change, _) in AFTER_SCAN.items():
            change(images / path)
        return scan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extract.prepare.scan_images", scan_then_change)
        change_while_read(patch, {images / path: change for path, change in WHILE_READ.items()})
        first = extract(images, store, max_bad=1.0)
    (images / "dogs/emptied.jpg").write_bytes(draw_new(1, "dogs"))
    return Moving(store, first, extract(images, store, max_bad=1.0))


def test_extract_file_that_changes_while_it_is_read_is_failed(moving: Moving) -> None:
    reasons = list_reasons(moving.first.failed)
    assert {path: reasons[path] for path in WHILE_READ} == dict.fromkeys(WHILE_READ, CHANGED)


def test_extract_file_replaced_by_a_pipe_or_folder_is_failed_without_waiting(moving: Moving) -> None:
    reasons = list_reasons(moving.first.failed)
    for path, (_, term) in AFTER_SCAN.items():
        assert term in reasons[path]
    assert len(reasons) == len(WHILE_READ) + len(AFTER_SCAN)
    assert (moving.first.computed, moving.first.error) == (2, "")


def test_extract_next_run_reads_changed_files_again(moving: Moving) -> None:
    ((path, reason),) = list_reasons(moving.second.failed).items()
    assert (path, "damaged" in reason) == ("cats/shorter.jpg", True)
    assert (moving.second.computed, moving.second.reused, moving.second.removed) == (3, 2, len(AFTER_SCAN))
    # Decoders ignore bytes after the end of a JPEG.
    paths = ["cats/kept.jpg", "cats/longer.jpg", "dogs/emptied.jpg", "dogs/kept.jpg", "dogs/rewritten.jpg"]
    assert list_stored(moving.store) == paths


def test_predict_file_that_changes_while_it_is_read_is_failed(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_pictures(tmp_path, [*WHILE_READ, "cats/kept.jpg"])
    change_while_read(monkeypatch, {tmp_path / path: change for path, change in WHILE_READ.items()})
    result = predict(tiny_model, tmp_path)
    assert list_reasons(result["failed"], folder=tmp_path) == dict.fromkeys(WHILE_READ, CHANGED)
    assert list_predicted(result, tmp_path) == ["cats/kept.jpg"]


@pytest.mark.unit
def test_read_picture_refused_file_is_closed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder", "nothing"):
        with pytest.raises(UndecodableImageError):
            read_picture(tmp_path / name)
    still_open = [os.path.realpath(descriptor) for descriptor in Path("/proc/self/fd").iterdir()]
    assert [name for name in still_open if name.startswith(str(tmp_path))] == []


# Long paths.

PATH_MAX = 4096
"""Limit of Linux on the bytes of a path, including the zero at its end."""


@dataclass(frozen=True)
class Long:
    """Folder of pictures with long paths."""

    folder: Path
    longest: str
    """Picture with the longest possible path."""
    too_long: list[str]
    """Picture with a path one byte longer, and a folder below which every path is too long."""


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Long]:
    folder = tmp_path_factory.mktemp("long") / "images"
    put_pictures(folder, ["cats/0.jpg", "dogs/0.jpg", "dogs/1.jpg"])
    path, descriptor = "cats", os.open(folder / "cats", os.O_RDONLY)

    def enter(name: str) -> None:
        nonlocal path, descriptor
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        path, descriptor = f"{path}/{name}", below

    def put(name: str, data: bytes) -> str:
        with os.fdopen(os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=descriptor), "wb") as file:
            file.write(data)
        return f"{path}/{name}"

    while len(f"{folder}/{path}/") < PATH_MAX - 230:
        enter("d" * 200)
    room = PATH_MAX - 1 - len(f"{folder}/{path}/")
    longest = put("p" * (room - 4) + ".jpg", draw_new(1))
    too_long = [put("q" * (room - 3) + ".jpg", draw_new(2))]
    enter("e" * 250)
    too_long.append(path)
    put("never.jpg", draw_new(3))
    enter("f" * 250)
    put("never.jpg", draw_new(4))
    os.close(descriptor)
    yield Long(folder, longest, too_long)
    shutil.rmtree(folder)


def test_extract_longest_path_is_stored_and_longer_ones_are_skipped(long: Long, tmp_path: Path) -> None:
    assert len(f"{long.folder}/{long.longest}") == PATH_MAX - 1
    result = extract(long.folder, tmp_path / "store")
    assert list_stored(tmp_path / "store") == ["cats/0.jpg", long.longest, "dogs/0.jpg", "dogs/1.jpg"]
    assert result.failed == []
    reasons = list_reasons(result.skipped, "path")
    assert sorted(reasons) == sorted(long.too_long)
    assert all("File name too long" in reason for reason in reasons.values())


def test_predict_longest_path_is_classified_and_longer_ones_are_listed(long: Long, tiny_model: Path) -> None:
    result = predict(tiny_model, long.folder)
    assert list_predicted(result, long.folder) == ["cats/0.jpg", long.longest, "dogs/0.jpg", "dogs/1.jpg"]
    # A file with a path that is too long fails; a folder is skipped.
    reasons = list_reasons(result["failed"], folder=long.folder) | list_reasons(result["skipped"], folder=long.folder)
    assert sorted(reasons) == sorted(long.too_long)
    assert all("File name too long" in reason for reason in reasons.values())
    assert len(result["failed"]) + len(result["skipped"]) == len(long.too_long)
