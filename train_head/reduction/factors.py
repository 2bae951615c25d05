"""Factors: what a reduction leaves of the features, kept in the store's derived/ under their own digest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from features.console import Console
from features.durable import hash_file, sync_folder
from features.schema import Fingerprint
from train_head.head import Array

FORMAT = 1
MAX_KEPT_BYTES = 2**30
"""Of all kept factors of a store; the ones longest unused go first."""


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
    directions: Array
    """(inputs, r); with no rows where they follow from the training features and `train`."""


def make_key(fingerprint: Fingerprint, train: Sequence[bytes], validation: Sequence[bytes], rank: int) -> str:
    """Makes the key of what factors are made from.

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


def keep_factors(folder: Path, key: str, factors: Factors) -> None:
    """Writes factors beside others, removing the ones that were not used for longest.

    Args:
        folder: the store's derived/; made where it is missing.
        key: what they were made from.
        factors: the factors.

    Raises:
        OSError: the disk or its permissions refused; no file appears.
    """
    folder.mkdir(exist_ok=True)
    partial = folder / f".partial-{key[:32]}-{os.getpid()}"
    try:
        with partial.open("wb") as file:
            arrays = {field.name: getattr(factors, field.name) for field in fields(Factors)}
            np.savez(file, key=np.frombuffer(bytes.fromhex(key), np.uint8), **arrays)
            file.flush()
            os.fsync(file.fileno())
        sha256 = hash_file(partial)
        _remove_unused(folder, partial.stat().st_size)
        partial.replace(folder / _name(key, sha256))
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(folder)


def load_factors(folder: Path, key: str, console: Console) -> Factors | None:
    """Reads kept factors after checking every byte; damaged or foreign ones are told and removed.

    Returns:
        The factors, or None where they have to be made.
    """
    for path in sorted(folder.glob(_name(key, "*"))):
        expected = path.stem.rpartition("-")[2]
        try:
            found = hash_file(path)
            if found != expected:
                raise ValueError(f"another file, {found[:12]}…")
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                if arrays["key"].tobytes().hex() != key:
                    raise ValueError("factors of other features")
                factors = Factors(*(arrays[field.name] for field in fields(Factors)))
            _check(factors)
        except Exception as error:
            # A damaged .npz fails in zipfile, in zlib or in NumPy, each with errors of its own.
            console.warn(f"{path}: expected factors with SHA-256 {expected[:12]}…, got {error}. They are made again")
            with suppress(OSError):
                path.unlink()
            continue
        with suppress(OSError):
            os.utime(path)
        return factors
    return None


def _check(factors: Factors) -> None:
    rank = len(factors.eigenvalues)
    arrays = (factors.train, factors.validation, factors.directions)
    if not rank or any(array.ndim != 2 or array.shape[1] != rank or array.dtype != np.float32 for array in arrays):
        raise ValueError("arrays of other shapes")


def _name(key: str, sha256: str) -> str:
    return f"reduction-{key[:32]}-{sha256}.npz"


def _remove_unused(folder: Path, num_bytes: int) -> None:
    """Makes room for a file under the cap."""
    kept = sorted(folder.glob("reduction-*.npz"), key=lambda path: path.stat().st_mtime, reverse=True)
    total = num_bytes
    for path in kept:
        total += path.stat().st_size
        if total > MAX_KEPT_BYTES:
            path.unlink(missing_ok=True)
