"""Factors: what a reduction leaves of the features, kept in the store's derived/ under their own digest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import numpy as np

from features.arrays import load_arrays
from features.console import Console
from features.durable import PARTIAL_PREFIX, hash_file, open_synced, sync_folder
from features.schema import Fingerprint
from train_head.head import Array

FORMAT = 1
MAX_KEPT_BYTES = 2**30
"""Of all that is kept for a store; what is unused for longest goes first."""


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


Kept = TypeVar("Kept", Factors, Directions, Means)


def make_key(fingerprint: Fingerprint, train: Sequence[bytes], validation: Sequence[bytes], rank: int) -> str:
    """Makes the key of what a reduction is made from.

    Args:
        fingerprint: of the features.
        train: content hashes, in order.
        validation: likewise.
        rank: how many directions were asked for.
    """
    digest = hashlib.sha256(f"reduction {FORMAT}\n{fingerprint.digest}\n{rank}\n{len(train)}\n".encode())
    for content_hash in (*train, *validation):
        digest.update(content_hash)
    return digest.hexdigest()


def keep(folder: Path, key: str, made: Factors | Directions | Means) -> None:
    """Writes what was made beside others, removing what was not used for longest.

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
        _remove_unused(folder, partial.stat().st_size)
        partial.replace(folder / name)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(folder)


def load(folder: Path, key: str, kind: type[Kept], console: Console) -> Kept | None:
    """Reads what was kept after checking every byte; what is damaged or foreign is told and removed.

    Args:
        folder: the store's derived/.
        key: what it was made from.
        kind: `Factors`, `Directions` or `Means`.
        console: told of damage.

    Returns:
        What was kept, or None where it has to be made.
    """
    for path in sorted(folder.glob(_name(kind, key, "*"))):
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
            with suppress(OSError):
                path.unlink()
            continue
        with suppress(OSError):
            os.utime(path)
        return kept
    return None


def _name(kind: type, key: str, sha256: str) -> str:
    return f"{kind.__name__.lower()}-{key[:32]}-{sha256}.npz"


def _remove_unused(folder: Path, num_bytes: int) -> None:
    """Makes room for a file under the cap."""
    kept = sorted(folder.glob("*-*.npz"), key=lambda path: path.stat().st_mtime, reverse=True)
    total = num_bytes
    for path in kept:
        total += path.stat().st_size
        if total > MAX_KEPT_BYTES:
            path.unlink(missing_ok=True)
