"""Cache of data derived from features, in the store's derived/.

The name of each file contains the key of its data and the SHA-256 of its bytes. Every file can be computed again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_info

from base.files import PARTIAL_PREFIX, hash_file, open_synced
from base.regular import RegularFile
from base.system import rename, sync_folder
from base.terminal import Console
from features.derived import list_abandoned, list_cached
from features.schema import Features
from features.store import Example, FeatureStore
from train_head.data.batches import Array
from train_head.reduction.row_file import Matrix, RowFile, hash_open_file

FORMAT = 3
"""Version of the keys and of the algorithms; increment it after a change that alters the results."""
MAX_CACHE_BYTES = 2**30
"""Largest size of a store's cache; the least recently used files are removed first."""
NUM_LARGE = 3
"""Number of files of the size of the largest one that are kept even beyond `MAX_CACHE_BYTES`."""


@dataclass(frozen=True)
class Factors:
    """Reduced features Z = X V of training and validation; rows in the order of content hash and view."""

    train: Matrix
    """(distinct training rows, r) float32."""
    validation: Matrix
    """(distinct validation rows, r) float32."""
    eigenvalues: Array
    """(r,) float32: λ, the squared lengths of the columns of `train`, in descending order."""

    def compute_coefficients(self, kernel: Array) -> Array:
        """Compute C = Z diag(1 / λ) A, (training rows, units), for a reduced kernel A (r, units).

        The kernel on all inputs is Xᵀ C, because V = Xᵀ Z diag(1 / λ).
        """
        return np.asarray((self.train[:] / self.eigenvalues) @ kernel, np.float32)


@dataclass(frozen=True)
class Directions:
    """Basis V of a sketch. It cannot be computed from the training features and `Factors.train`."""

    directions: Array
    """(inputs, r) float32, orthonormal columns."""


@dataclass(frozen=True)
class Neighbours:
    """Nearest neighbours of each picture, for finding near-duplicates; (n,) pictures, k neighbours of each."""

    firsts: NDArray[np.int32]
    """(n,) first row with equal features; the own row if no earlier one is equal."""
    rows: NDArray[np.int32]
    """(n, k) rows of the most similar pictures in descending order; of equal rows only the first is listed."""
    similarities: Array
    """(n, k) float32: 1 for equal features, 0 for an ordinary neighbour."""


@dataclass(frozen=True)
class Pooled:
    """Features that were averaged over height and width."""

    features: Features
    """(n, channels) float16."""


@dataclass(frozen=True)
class LabelScores:
    """Leave-one-out scores of n pictures, for finding wrong labels."""

    given: Array
    """(n,) float32 probability of the label, from fits without the picture."""
    predicted: NDArray[np.int32]
    """(n,) number of the most probable class; -1 if unknown."""
    suggested: NDArray[np.int32]
    """(n,) number of the class that contradicts the label; -1 if none does."""
    probability: Array
    """(n,) float32 probability of the suggested class; 0 if there is none."""
    distances: Array
    """(n,) float32 squared distance to the nearest class, whose mean is without the picture; NaN if unknown."""


Found = TypeVar("Found")
Derived = TypeVar("Derived", Factors, Directions, Neighbours, Pooled, LabelScores)


def make_key(store: FeatureStore, groups: Sequence[Sequence[Example]], rank: int) -> str:
    """Return the key of data derived from features: a SHA-256 as hexadecimal digits.

    It covers the fingerprint, the digests of the shards, the views in each group in their order, the rank, and NumPy
    with its BLAS library. Shards are included because features that are extracted again under the same fingerprint
    may differ, and BLAS because it determines the rounding of sums.

    Args:
        store: the store of the features.
        groups: the examples, such as training and validation.
        rank: number of reduced inputs; 0 for data that have none.
    """
    digest = hashlib.sha256(f"derived {FORMAT}\n{store.fingerprint.digest}\n{rank}\n{describe_blas()}\n".encode())
    for examples in groups:
        digest.update(f"{len(examples)} {store.hash_sources(examples)}\n".encode())
        for example in examples:
            digest.update(example.content_hash + example.view.to_bytes(4, "big"))
    return digest.hexdigest()


def describe_blas() -> str:
    """Describe NumPy, its BLAS library and the kind of processor that it computes for: they determine rounding."""
    # SciPy may have loaded another one, and the order of the list varies between processes.
    folder = str(Path(np.__file__).resolve().parent)
    libraries = [found for found in threadpool_info() if found["user_api"] == "blas"]
    blas: dict[str, Any] = max(libraries, key=lambda found: found["filepath"].startswith(folder), default={})
    return f"numpy {np.__version__} {blas.get('version')} {blas.get('architecture')}"


def put(folder: Path, key: str, data: Factors | Directions | Neighbours | Pooled | LabelScores) -> None:
    """Write data to a cache folder, which is created if needed; remove the least recently used files beyond the cap."""
    folder.mkdir(exist_ok=True)
    stem = f"{type(data).__name__.lower()}-{key[:32]}"
    partial = folder / f"{PARTIAL_PREFIX}{stem}-{os.getpid()}"
    try:
        with open_synced(partial) as file:
            arrays = {field.name: getattr(data, field.name) for field in fields(data)}
            for name, matrix in arrays.items():
                if isinstance(matrix, RowFile):
                    _make_room(folder, matrix.num_bytes, matrix.num_bytes)
                    matrix.publish(name_rows(key, name))
                    arrays[name] = np.array(matrix.shape)
            np.savez(file, key=np.frombuffer(bytes.fromhex(key), np.uint8), **arrays)
        name = f"{stem}-{hash_file(partial)}.npz"
        _make_room(folder, partial.stat().st_size)
        rename(partial, folder / name)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(folder)


def remove_abandoned(folder: Path) -> None:
    """Remove the partial files of processes that have ended; nothing is removed if the folder is a link."""
    for path in list_abandoned(folder):
        with suppress(OSError):
            path.unlink()


def get(folder: Path, key: str, kind: type[Derived], console: Console) -> Derived | None:
    """Return cached data, or None if there are none.

    A file whose bytes do not match its name, or that contains another key, causes a warning and is removed.
    """

    def parse(file: RegularFile) -> Derived:
        with np.load(file, allow_pickle=False) as arrays:
            if arrays["key"].tobytes().hex() != key:
                raise ValueError("the key of other features")
            return kind(*(arrays[field.name] for field in fields(kind)))

    found = _find(folder, f"{kind.__name__.lower()}-{key[:32]}", parse, console)
    if isinstance(found, Factors):
        matrices = {name: getattr(found, name) for name in ("train", "validation")}
        for name, shape in matrices.items():
            if shape.ndim == 1:
                matrices[name] = _find(folder, name_rows(key, name), _open_rows, console)
        if any(matrix is None or matrix.shape[1] != len(found.eigenvalues) for matrix in matrices.values()):
            return None
        return replace(found, **matrices)
    return found


def name_rows(key: str, name: str) -> str:
    """Return the name, without digest and suffix, of the file of a large matrix: the array `name` of some factors."""
    return f"rows-{hashlib.sha256(f'{key} {name}'.encode()).hexdigest()[:32]}"


def _open_rows(file: RegularFile) -> RowFile:
    # The file that was verified is the one that is read later.
    return RowFile.open(os.fdopen(os.dup(file.fileno()), "rb", buffering=0))


def _find(folder: Path, stem: str, parse: Callable[[RegularFile], Found], console: Console) -> Found | None:
    """Return the contents of the verified file with a stem; warn about a damaged one, and remove it."""
    for path in list_cached(folder):
        if not path.name.startswith(f"{stem}-"):
            continue
        expected = path.stem.rpartition("-")[2]
        try:
            with RegularFile(path) as file:
                found = hash_open_file(file)
                if found != expected:
                    raise ValueError(f"SHA-256 {found[:12]}…")
                file.seek(0)
                data = parse(file)
        except Exception as error:
            # zipfile, zlib and NumPy each raise their own errors for a damaged file.
            console.warning(
                f"{path}: damaged cache file: expected SHA-256 {expected[:12]}…, got {error}. Its data are recomputed"
            )
            if not folder.is_symlink():
                with suppress(OSError):
                    path.unlink()
            continue
        with suppress(OSError):
            os.utime(path)
        return data
    return None


def _make_room(folder: Path, num_bytes: int, largest: int = 0) -> None:
    """Remove abandoned partial files, and the least recently used files until `num_bytes` more fit under the cap.

    Nothing is removed if the folder is a link. `largest` is the size of the large matrix that needs the room, if any.
    """
    if folder.is_symlink():
        return
    remove_abandoned(folder)
    found = sorted(((path.stat(), path) for path in list_cached(folder)), key=lambda pair: -pair[0].st_mtime)
    sizes = [status.st_size for status, path in found if path.suffix == ".npy"]
    limit, total = max(MAX_CACHE_BYTES, NUM_LARGE * max([*sizes, largest])), num_bytes
    for status, path in found:
        total += status.st_size
        if total > limit:
            # Windows does not remove a file that another process reads.
            with suppress(OSError):
                path.unlink()
