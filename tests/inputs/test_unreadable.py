"""Pictures that cannot be read: no permission, gone or changed since the scan, no file, or too long a path."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from base.regular import FileIdentity, RegularFile
from extract.decode import UndecodableImageError, read_picture
from extract.images.scan import Scan, scan_images
from extract.run import ExtractResult
from tests.inputs.commands import EXTRACT, PREDICT, SMALL, Done, finish, start
from tests.inputs.folders import draw_new, extract_small, list_reasons, list_stored, predict_all, put_pictures

DENIED = "an unreadable file (Permission denied)"
CHANGED = "a file that changed while it was read"

# Permissions.


LOCKABLE = [
    *("cats/0.jpg", "cats/1.jpg", "cats/2.jpg", "cats/closed/0.jpg"),
    *("dogs/0.jpg", "dogs/1.jpg", "dogs/2.jpg", "dogs/listed/0.jpg"),
]
OPEN = ["cats/0.jpg", "cats/2.jpg", "dogs/0.jpg", "dogs/1.jpg"]


@dataclass(frozen=True)
class Locked:
    folder: Path
    store: Path
    extract: Done
    predict: Done


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Locked:
    folder = tmp_path_factory.mktemp("locked") / "pictures"
    put_pictures(folder, LOCKABLE)
    modes = {"cats/1.jpg": 0o000, "dogs/2.jpg": 0o200, "cats/closed": 0o000, "dogs/listed": 0o444}
    for path, mode in modes.items():
        (folder / path).chmod(mode)
    store = folder.parent / "store"
    options = ["--images", folder, "--store", store, *SMALL, "--max-bad", 1, "--json"]
    running = [
        start(EXTRACT, *options, denied=True),
        start(PREDICT, "--model", tiny_model, folder, "--json", denied=True),
    ]
    extract, predicted = map(finish, running)
    for path in ("cats/closed", "dogs/listed", "cats/1.jpg", "dogs/2.jpg"):
        (folder / path).chmod(0o755)
    return Locked(folder, store, extract, predicted)


def test_extract_pictures_that_may_not_be_read_are_failed_with_the_reason(locked: Locked) -> None:
    assert locked.extract.status == 0, locked.extract.err
    assert locked.extract.reasons == {"cats/1.jpg": DENIED, "dogs/2.jpg": DENIED}


def test_extract_folders_that_may_not_be_entered_are_accounted_for(locked: Locked) -> None:
    assert list_reasons(locked.extract.result["skipped"], "path") == {
        "cats/closed": "an unreadable folder (Permission denied)",
        "dogs/listed/0.jpg": DENIED,
    }


def test_extract_after_permission_is_given_computes_what_lacks(locked: Locked, tmp_path: Path) -> None:
    store = shutil.copytree(locked.store, tmp_path / "store")
    before = list_stored(store)
    assert [path for path, _ in before] == OPEN
    result = extract_small(locked.folder, store)
    assert (result.computed, result.reused, result.failed, result.skipped) == (4, 4, [], [])
    assert [path for path, _ in list_stored(store)] == LOCKABLE


def test_predict_pictures_and_folders_that_are_closed_leave_the_others_predicted(locked: Locked) -> None:
    assert locked.predict.status == 1
    assert "predictions" in locked.predict.result, locked.predict.err
    images = [found["image"].removeprefix(f"{locked.folder}/") for found in locked.predict.result["predictions"]]
    assert images == OPEN
    failed = list_reasons(locked.predict.result["failed"], folder=locked.folder)
    skipped = list_reasons(locked.predict.result["skipped"], folder=locked.folder)
    assert {failed.get(path) for path in ("cats/1.jpg", "dogs/2.jpg")} == {DENIED}
    assert sorted([*failed, *skipped]) == ["cats/1.jpg", "cats/closed", "dogs/2.jpg", "dogs/listed/0.jpg"]


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
    "cats/pipe.jpg": (replace_by(os.mkfifo), "an unreadable file (Not a regular file)"),
    "cats/gone.jpg": (Path.unlink, "an unreadable file (No such file or directory)"),
    "cats/device.jpg": (
        replace_by(lambda path: path.symlink_to("/dev/zero")),
        "an unreadable file (Not a regular file)",
    ),
    "dogs/loop.jpg": (
        replace_by(lambda path: path.symlink_to(path)),
        "an unreadable file (Too many levels of symbolic links)",
    ),
    "dogs/folder.jpg": (replace_by(Path.mkdir), "an unreadable file (Not a regular file)"),
}


def change_while_read(patch: pytest.MonkeyPatch, changes: dict[Path, Change]) -> None:
    """Has files changed for real, each once, between the taking of its identity and the reading."""
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
    """A folder that changed under the first run, and was left alone in the second."""

    store: Path
    first: ExtractResult
    second: ExtractResult


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Moving:
    folder = tmp_path_factory.mktemp("moving")
    images, store = folder / "images", folder / "store"
    put_pictures(images, [*WHILE_READ, *AFTER_SCAN, "cats/kept.jpg", "dogs/kept.jpg"])

    def scan_then_change(images: Path, stores: Collection[Path] = ()) -> Scan:
        found = scan_images(images, stores)
        for path, (change, _) in AFTER_SCAN.items():
            change(images / path)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extract.run.scan_images", scan_then_change)
        change_while_read(patch, {images / path: change for path, change in WHILE_READ.items()})
        first = extract_small(images, store)
    (images / "dogs/emptied.jpg").write_bytes(draw_new(1, "dogs"))
    return Moving(store, first, extract_small(images, store))


def test_extract_picture_that_changes_while_it_is_read_is_failed(moving: Moving) -> None:
    reasons = list_reasons(moving.first.failed)
    assert {path: reasons[path] for path in WHILE_READ} == dict.fromkeys(WHILE_READ, CHANGED)


def test_extract_picture_that_is_no_file_any_more_is_failed_and_never_waited_for(moving: Moving) -> None:
    reasons = list_reasons(moving.first.failed)
    assert {path: reasons[path] for path in AFTER_SCAN} == {path: reason for path, (_, reason) in AFTER_SCAN.items()}
    assert len(reasons) == len(WHILE_READ) + len(AFTER_SCAN)
    assert (moving.first.computed, moving.first.error) == (2, "")


def test_extract_next_run_reads_again_what_changed(moving: Moving) -> None:
    ((path, reason),) = list_reasons(moving.second.failed).items()
    assert (path, reason.startswith("a damaged file (")) == ("cats/shorter.jpg", True)
    assert (moving.second.computed, moving.second.reused, moving.second.removed) == (3, 2, len(AFTER_SCAN))
    # A JPEG may be followed by anything.
    paths = ["cats/kept.jpg", "cats/longer.jpg", "dogs/emptied.jpg", "dogs/kept.jpg", "dogs/rewritten.jpg"]
    assert [path for path, _ in list_stored(moving.store)] == paths


def test_predict_picture_that_changes_while_it_is_read_is_failed(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_pictures(tmp_path, [*WHILE_READ, "cats/kept.jpg"])
    change_while_read(monkeypatch, {tmp_path / path: change for path, change in WHILE_READ.items()})
    result = predict_all(tiny_model, tmp_path)
    assert list_reasons(result["failed"], folder=tmp_path) == dict.fromkeys(WHILE_READ, CHANGED)
    assert [found["image"] for found in result["predictions"]] == [str(tmp_path / "cats/kept.jpg")]


def test_read_picture_refusing_leaves_no_file_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder", "nothing"):
        with pytest.raises(UndecodableImageError):
            read_picture(tmp_path / name)
    still_open = [os.path.realpath(descriptor) for descriptor in Path("/proc/self/fd").iterdir()]
    assert [name for name in still_open if name.startswith(str(tmp_path))] == []


# Paths as long as they get.

PATH_MAX = 4096
"""Of Linux, with the zero at its end."""


@dataclass(frozen=True)
class Long:
    folder: Path
    longest: str
    """The picture whose whole path is as long as it may be."""
    too_long: list[str]
    """A picture with one byte more, and the folder below which all is too long."""


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Long]:
    folder = tmp_path_factory.mktemp("long") / "images"
    put_pictures(folder, ["cats/0.jpg", "dogs/0.jpg"])
    path, descriptor = "cats", os.open(folder / "cats", os.O_RDONLY)
    parts = []

    def enter(name: str) -> None:
        nonlocal path, descriptor
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        path, descriptor = f"{path}/{name}", below

    def put(name: str, data: bytes) -> str:
        with os.fdopen(os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=descriptor), "wb") as file:
            file.write(data)
        parts.append(name)
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


def test_extract_longest_path_is_taken_and_longer_ones_are_skipped(long: Long, tmp_path: Path) -> None:
    assert len(f"{long.folder}/{long.longest}") == PATH_MAX - 1
    result = extract_small(long.folder, tmp_path / "store")
    assert [path for path, _ in list_stored(tmp_path / "store")] == ["cats/0.jpg", long.longest, "dogs/0.jpg"]
    assert result.failed == []
    picture, folder = long.too_long
    assert list_reasons(result.skipped, "path") == {
        picture: "an unreadable file (File name too long)",
        folder: "an unreadable folder (File name too long)",
    }


def test_predict_longest_path_is_taken_and_longer_ones_are_failed(long: Long, tiny_model: Path) -> None:
    result = predict_all(tiny_model, long.folder)
    images = [found["image"].removeprefix(f"{long.folder}/") for found in result["predictions"]]
    assert images == ["cats/0.jpg", long.longest, "dogs/0.jpg"]
    # A folder whose path is too long cannot be listed, and is passed over; a file's cannot be opened.
    found = list_reasons(result["failed"], folder=long.folder) | list_reasons(result["skipped"], folder=long.folder)
    assert found.keys() == set(long.too_long)
    assert all(reason.endswith("(File name too long)") for reason in found.values())
    assert len(result["failed"]) + len(result["skipped"]) == len(long.too_long)
