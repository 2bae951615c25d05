"""A cache of what is derived from features, in the store's derived/: each file under a key and its own digest."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import numpy as np
from threadpoolctl import threadpool_info

from base.arrays import load_arrays
from base.files import PARTIAL_PREFIX, hash_file, open_synced, sync_folder
from base.terminal import Console
from features.store import Example, FeatureStore
from train_head.data.batches import Array

FORMAT = 2
"""Of keys and of what is computed: other numbers from the same features need another one."""
MAX_KEPT_BYTES = 2**30
"""Of all that is kept for a store; what is unused for longest goes first."""
_STARTED = time.time()
_KINDS = "factors|directions|means"
_KEPT = re.compile(rf"(?:{_KINDS})-[0-9a-f]{{32}}-[0-9a-f]{{64}}\.npz")
_LEFT_OVER = re.compile(rf"\.partial-(?:{_KINDS})-[0-9a-f]{{32}}-(?P<pid>[0-9]+)")


@dataclass(frozen=True)
class Factors:
    """Training and validation features in the basis of a reduction.

    Rows are distinct contents in the order of their hashes, so that neither a new name nor another label nor
    another place in the store makes them stale.
    """

    train: Array
    """(contents, r)."""
    validation: Array
    """(contents, r)."""
    eigenvalues: Array
    """(r,) squared lengths of the columns of `train`, falling."""


@dataclass(frozen=True)
class Directions:
    """The basis itself, kept where it does not follow from the training features and `Factors.train`."""

    directions: Array
    """(inputs, r), orthonormal columns."""


@dataclass(frozen=True)
class Means:
    """Each channel's mean over height and width, rows as in `Factors`; what near-duplicates are looked for with."""

    train: Array
    """(contents, channels)."""
    validation: Array
    """(contents, channels)."""


Derived = TypeVar("Derived", Factors, Directions, Means)


def make_key(store: FeatureStore, sides: Sequence[Sequence[Example]], rank: int) -> str:
    """Make the key of what is derived from features.

    It holds the bytes that the features are stored in, not only their names: features that were extracted again
    under the same fingerprint may differ. It also holds what the bits of a sum depend on beside them.

    Args:
        store: where the features are.
        sides: whose: views of contents, each side in order.
        rank: how many directions were asked for; 0 where there are none.
    """
    digest = hashlib.sha256(f"derived {FORMAT}\n{store.fingerprint.digest}\n{rank}\n{_describe_blas()}\n".encode())
    for examples in sides:
        digest.update(f"{len(examples)} {store.hash_sources(examples)}\n".encode())
        for example in examples:
            digest.update(example.content_hash + example.view.to_bytes(4, "big"))
    return digest.hexdigest()


def put(folder: Path, key: str, made: Factors | Directions | Means) -> None:
    """Write what was made beside others, and remove what was not used for longest.

    Args:
        folder: the store's derived/; made where it is missing.
        key: what they were made from.
        made: what to write.

    Raises:
        OSError: the disk or its permissions refused; no file appears.
    """
    folder.mkdir(exist_ok=True)
    partial = folder / f"{PARTIAL_PREFIX}{type(made).__name__.lower()}-{key[:32]}-{os.getpid()}"
    try:
        with open_synced(partial) as file:
            arrays = {field.name: getattr(made, field.name) for field in fields(made)}
            np.savez(file, key=np.frombuffer(bytes.fromhex(key), np.uint8), **arrays)
        name = _name(type(made), key, hash_file(partial))
        _make_room(folder, partial.stat().st_size)
        partial.replace(folder / name)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(folder)


def get(folder: Path, key: str, kind: type[Derived], console: Console) -> Derived | None:
    """Read what was kept after checking every byte; warn of a damaged file, and remove it.

    Args:
        folder: the store's derived/.
        key: what it was made from.
        kind: `Factors`, `Directions` or `Means`.
        console: where warnings go.

    Returns:
        What was kept, or None where it has to be made.
    """
    for path in _list_own(folder, _KEPT):
        if not path.name.startswith(f"{kind.__name__.lower()}-{key[:32]}-"):
            continue
        expected = path.stem.rpartition("-")[2]
        try:
            found = hash_file(path)
            if found != expected:
                raise ValueError(f"another file, {found[:12]}…")
            arrays = load_arrays(path)
            if arrays["key"].tobytes().hex() != key:
                raise ValueError("those of other features")
            kept = kind(*(arrays[field.name] for field in fields(kind)))
        except Exception as error:
            # A damaged .npz fails in zipfile, in zlib or in NumPy, each with errors of its own.
            what = kind.__name__.lower()
            console.warn(f"{path}: expected {what} with SHA-256 {expected[:12]}…, got {error}. They are made again")
            if not folder.is_symlink():
                with suppress(OSError):
                    path.unlink()
            continue
        with suppress(OSError):
            os.utime(path)
        return kept
    return None


def _describe_blas() -> str:
    """Describe the library that adds up, and the kind of processor that it adds for."""
    libraries = [found for found in threadpool_info() if found["user_api"] == "blas"]
    # NumPy's own is loaded first; SciPy brings another.
    found = libraries[0] if libraries else {}
    return f"numpy {np.__version__} {found.get('version')} {found.get('architecture')}"


def _name(kind: type, key: str, sha256: str) -> str:
    return f"{kind.__name__.lower()}-{key[:32]}-{sha256}.npz"


def _list_own(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """List the regular files in a folder that have a name of ours."""
    with suppress(OSError):
        named = sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name))
        return [path for path in named if path.is_file() and not path.is_symlink()]
    return []


def _make_room(folder: Path, num_bytes: int) -> None:
    """Remove leftovers, and files until another one fits under the cap; never behind a link that somebody made."""
    if folder.is_symlink():
        return
    for path in _list_left_over(folder):
        with suppress(OSError):
            path.unlink()
    total = num_bytes
    for path in sorted(_list_own(folder, _KEPT), key=lambda path: path.stat().st_mtime, reverse=True):
        total += path.stat().st_size
        if total > MAX_KEPT_BYTES:
            path.unlink(missing_ok=True)


def _list_left_over(folder: Path) -> Iterator[Path]:
    """Yield partial files that no process writes any more: older than this one, and their own is gone."""
    for path in _list_own(folder, _LEFT_OVER):
        found = _LEFT_OVER.fullmatch(path.name)
        if found and path.stat().st_mtime < _STARTED and not Path(f"/proc/{found['pid']}").exists():
            yield path
