"""Model of a disk after a power cut, computed from the log of input/output calls.

The model is strict: the bytes of a file reach the disk only when the file is synchronised, and a created, renamed or
removed name only when the folder is synchronised. All other changes are lost or, if `cut_power` gets a random
generator, partly lost.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field
from pathlib import Path

_HEAD = struct.Struct("5q")


@dataclass(frozen=True)
class Call:
    """One logged call."""

    operation: str
    inode: int
    offset: int
    path: str
    data: bytes


@dataclass
class _File:
    current: bytearray = field(default_factory=bytearray)
    """Content that processes read."""
    kept: bytes = b""
    """Content on the disk."""
    unsynced: list[Call] = field(default_factory=list)


def read_log(log: Path) -> list[Call]:
    """Read the log of `faults.c`."""
    data, calls, position = log.read_bytes(), [], 0
    while position < len(data):
        operation, inode, offset, path_size, size = _HEAD.unpack_from(data, position)
        position += _HEAD.size
        path = data[position : position + path_size].decode()
        position += path_size
        calls.append(Call(chr(operation), inode, offset, path, data[position : position + size]))
        position += size
    return calls


def list_disk(folder: Path) -> tuple[dict[str, bytes], dict[str, int]]:
    """Return the content and the inode of each file in a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in files}, {str(path): path.stat().st_ino for path in files}


def cut_power(
    before: tuple[dict[str, bytes], dict[str, int]], calls: list[Call], rng: random.Random | None
) -> dict[str, bytes]:
    """Compute the content of the disk if the power fails after the last call.

    Args:
        before: result of `list_disk` before the first call.
        calls: logged calls.
        rng: chooses which unsynchronised changes survive; None loses all of them.

    Returns:
        Content of each file.
    """
    contents, inodes = before
    files = {inode: _File(bytearray(contents[path]), contents[path]) for path, inode in inodes.items()}
    names: dict[str, _File] = {path: files[inode] for path, inode in inodes.items()}
    kept_names, unsynced_names = dict(names), list[Call]()
    for call in calls:
        match call.operation:
            case "C":
                files[call.inode] = names[call.path] = _File()
                unsynced_names.append(call)
            case "W" | "T":
                _change(files[call.inode].current, call)
                files[call.inode].unsynced.append(call)
            case "S":
                file = files[call.inode]
                file.kept, file.unsynced = bytes(file.current), []
            case "R":
                names[call.data.decode()] = names.pop(call.path)
                unsynced_names.append(call)
            case "U":
                names.pop(call.path, None)
                unsynced_names.append(call)
            case "D":
                folder = call.path
                kept_names = {path: f for path, f in kept_names.items() if str(Path(path).parent) != folder}
                kept_names |= {path: f for path, f in names.items() if str(Path(path).parent) == folder}
                unsynced_names = [c for c in unsynced_names if str(Path(c.path).parent) != folder]
    if rng is None:
        return {path: file.kept for path, file in kept_names.items()}
    # A journalling file system keeps the order of changes to names. Writes may reach the disk in any order.
    disk = {path: _tear(file, rng) for path, file in names.items()}
    if unsynced_names and rng.random() < 0.5:
        return {path: disk.get(path, file.kept) for path, file in kept_names.items()}
    return disk


def _tear(file: _File, rng: random.Random) -> bytes:
    torn = bytearray(file.kept)
    for call in file.unsynced:
        if rng.random() < 0.5:
            _change(torn, call)
    return bytes(torn)


def _change(data: bytearray, call: Call) -> None:
    end = call.offset + len(call.data)
    if call.operation == "T":
        del data[call.offset :]
        data.extend(bytes(call.offset - len(data)))
        return
    data.extend(bytes(max(0, end - len(data))))
    data[call.offset : end] = call.data
