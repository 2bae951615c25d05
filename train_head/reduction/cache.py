"""A cache of what is derived from features, in the store's derived/: each file under a key and its own digest."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import threadpool_info

from base.files import PARTIAL_PREFIX, hash_file, is_regular, open_synced, sync_folder
from base.regular import RegularFile
from base.terminal import Console
from features.store import Example, FeatureStore
from train_head.data.batches import Array

FORMAT = 2
"""Version of keys and of the numbers: other numbers from the same features need another one."""
MAX_CACHE_BYTES = 2**30
"""Size of a store's cache; the file unused for longest is removed first."""
_STARTED = time.time()
_KINDS = "factors|directions|means"
_KEPT = re.compile(rf"(?:{_KINDS})-[0-9a-f]{{32}}-[0-9a-f]{{64}}\.npz")
_LEFT_OVER = re.compile(rf"\.partial-(?:{_KINDS})-[0-9a-f]{{32}}-[0-9]+")


@dataclass(frozen=True)
class Factors:
    """Training and validation features in the basis of a reduction; rows in the order of content hash and view."""

    train: Array
    """(contents, r)."""
    validation: Array
    """(contents, r)."""
    eigenvalues: Array
    """(r,) squared lengths of the columns of `train`, falling."""

    def compute_coefficients(self, kernel: Array) -> Array:
        """Compute C = Z diag(1 / λ) A, (contents, units), of a kernel A, (r, units): all inputs' kernel is Xᵀ C."""
        return np.asarray((self.train / self.eigenvalues) @ kernel, np.float32)


@dataclass(frozen=True)
class Directions:
    """The basis itself, where it does not follow from the training features and `Factors.train`."""

    directions: Array
    """(inputs, r), orthonormal columns."""


@dataclass(frozen=True)
class Means:
    """Each channel's mean over height and width, rows as in `Factors`: for finding near-duplicates."""

    train: Array
    """(contents, channels)."""
    validation: Array
    """(contents, channels)."""


Derived = TypeVar("Derived", Factors, Directions, Means)


def make_key(store: FeatureStore, sides: Sequence[Sequence[Example]], rank: int) -> str:
    """Make the key of what is derived from the views of each side, in their order; rank 0 where there is none.

    It holds the digests of the shards, because features that were extracted again under the same fingerprint may
    differ, and the BLAS library, which decides the bits of a sum.
    """
    # NumPy's own BLAS is loaded first; SciPy brings another.
    blas: dict[str, Any] = next((found for found in threadpool_info() if found["user_api"] == "blas"), {})
    computed_by = f"numpy {np.__version__} {blas.get('version')} {blas.get('architecture')}"
    digest = hashlib.sha256(f"derived {FORMAT}\n{store.fingerprint.digest}\n{rank}\n{computed_by}\n".encode())
    for examples in sides:
        digest.update(f"{len(examples)} {store.hash_sources(examples)}\n".encode())
        for example in examples:
            digest.update(example.content_hash + example.view.to_bytes(4, "big"))
    return digest.hexdigest()


def put(folder: Path, key: str, made: Factors | Directions | Means) -> None:
    """Write what was made to a cache folder, which may be missing, and remove what was not used for longest."""
    folder.mkdir(exist_ok=True)
    stem = f"{type(made).__name__.lower()}-{key[:32]}"
    partial = folder / f"{PARTIAL_PREFIX}{stem}-{os.getpid()}"
    try:
        with open_synced(partial) as file:
            arrays = {field.name: getattr(made, field.name) for field in fields(made)}
            np.savez(file, key=np.frombuffer(bytes.fromhex(key), np.uint8), **arrays)
        name = f"{stem}-{hash_file(partial)}.npz"
        _make_room(folder, partial.stat().st_size)
        partial.replace(folder / name)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(folder)


def get(folder: Path, key: str, kind: type[Derived], console: Console) -> Derived | None:
    """Read a cached file after comparing its digest, or None; a damaged file is a warning, and removed."""
    what = kind.__name__.lower()
    for path in _list_own(folder, _KEPT):
        if not path.name.startswith(f"{what}-{key[:32]}-"):
            continue
        expected = path.stem.rpartition("-")[2]
        try:
            with RegularFile(path) as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
                if found != expected:
                    raise ValueError(f"another file, {found[:12]}…")
                file.seek(0)
                with np.load(file, allow_pickle=False) as arrays:
                    if arrays["key"].tobytes().hex() != key:
                        raise ValueError("those of other features")
                    kept = kind(*(arrays[field.name] for field in fields(kind)))
        except Exception as error:
            # A damaged .npz fails in zipfile, in zlib or in NumPy, each with errors of its own.
            console.warning(f"{path}: expected {what} with SHA-256 {expected[:12]}…, got {error}. They are made again")
            if not folder.is_symlink():
                with suppress(OSError):
                    path.unlink()
            continue
        with suppress(OSError):
            os.utime(path)
        return kept
    return None


def _list_own(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """List the regular files in a folder that have a name of ours."""
    with suppress(OSError):
        return sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name) and is_regular(path))
    return []


def _make_room(folder: Path, num_bytes: int) -> None:
    """Remove leftovers, and files until another one fits under the cap; never behind a link that somebody made."""
    if folder.is_symlink():
        return
    for path in _list_own(folder, _LEFT_OVER):
        # Partial files that no process writes any more are older than this process, and their own is gone.
        if path.stat().st_mtime < _STARTED and not Path(f"/proc/{path.name.rpartition('-')[2]}").exists():
            with suppress(OSError):
                path.unlink()
    total = num_bytes
    for path in sorted(_list_own(folder, _KEPT), key=lambda path: path.stat().st_mtime, reverse=True):
        total += path.stat().st_size
        if total > MAX_CACHE_BYTES:
            path.unlink(missing_ok=True)
