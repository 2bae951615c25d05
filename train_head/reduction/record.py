"""The part of a reduction that a run saves: it expands the head to all inputs and needs only the store's shards."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.errors import HeadstartError
from base.terminal import format_count
from features.schema import FeatureKey
from features.store import Example, FeatureStore
from train_head.data.batches import Array
from train_head.reduction.matrix import FeatureMatrix, open_workers


@dataclass(frozen=True)
class Expansion:
    """Map from a reduced kernel A (r, units) to all inputs, W (inputs, units).

    After an exact decomposition W = Xᵀ C, with the training features X read from the store by content hash and view;
    after a sketch W = V A.
    """

    row_hashes: NDArray[np.uint8]
    """(n, 32) content hashes of the training rows, ascending."""
    row_views: NDArray[np.int32]
    """(n,) views of the training rows."""
    row_files: NDArray[np.int32]
    """(n,) index in `files` of the file that held each training row."""
    files: NDArray[np.bytes_]
    """Names of the shards, or of the packed store, for error messages."""
    coefficients: Array | None
    """(n, units) float32: C = Z diag(1 / λ) A; None after a sketch."""
    directions: Array | None
    """(inputs, r) float32: V; None after an exact decomposition."""

    def expand_kernel(self, store: FeatureStore, kernel: Array) -> Array:
        """Return W (inputs, units) for a reduced kernel; raise HeadstartError if the store lacks a training row."""
        with open_workers() as workers:
            if self.directions is not None:
                return np.asarray(self.directions @ kernel, np.float32)
            if self.coefficients is None:
                raise ValueError("neither coefficients nor directions")
            return FeatureMatrix(store, self._find_rows(store), workers).multiply_transposed(self.coefficients)

    def save(self, path: Path) -> None:
        """Write the arrays to an uncompressed .npz file."""
        arrays: dict[str, Any] = {name: array for name, array in vars(self).items() if array is not None}
        np.savez(path, **arrays)

    @classmethod
    def parse(cls, data: bytes) -> Expansion:
        """Parse the bytes of a file that `save` wrote, without loading pickled objects.

        Raises:
            ValueError: an array has the wrong shape or dtype, or is not finite.
            KeyError: an array is missing.
            Exception: the file is damaged; zipfile, zlib and NumPy raise different exceptions.
        """
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            found = dict(file)
        num_rows, files = len(found["row_views"]), found["files"]
        for name, dtype, shape in (
            ("row_hashes", np.uint8, (num_rows, 32)),
            ("row_views", np.int32, (num_rows,)),
            ("row_files", np.int32, (num_rows,)),
        ):
            if found[name].dtype != dtype or found[name].shape != shape:
                raise ValueError(f"{name} with the wrong shape or dtype")
        row_files = found["row_files"]
        if (
            not num_rows
            or files.ndim != 1
            or files.dtype.kind != "S"
            or not 0 <= row_files.min() <= row_files.max() < len(files)
        ):
            raise ValueError("files with the wrong shape, dtype or values")
        (kind,) = {"coefficients", "directions"} & set(found)
        factor = found[kind]
        if factor.ndim != 2 or factor.dtype != np.float32 or (kind == "coefficients" and len(factor) != num_rows):
            raise ValueError(f"{kind} with the wrong shape or dtype")
        if not np.isfinite(factor).all():
            raise ValueError("values that are not finite")
        factors = found.get("coefficients"), found.get("directions")
        return cls(found["row_hashes"], found["row_views"], row_files, files, *factors)

    def _find_rows(self, store: FeatureStore) -> list[Example]:
        """Return the training rows in the store; raise HeadstartError if one is missing."""
        keys = [FeatureKey(row.tobytes(), int(view)) for row, view in zip(self.row_hashes, self.row_views, strict=True)]
        rows = store.find_examples(keys)
        missing = [number for number, row in enumerate(rows) if row is None]
        if missing:
            first = keys[missing[0]].content_hash
            file = os.fsdecode(self.files[self.row_files[missing[0]]])
            raise HeadstartError(
                f"{store.path}, {file}",
                f"{format_count(len(rows), 'training feature')} of the head",
                f"{len(rows) - len(missing):,} of them, without the one with content hash {first.hex()[:12]}…",
                "Restore the file, or extract and train again",
            )
        return [row for row in rows if row is not None]


@dataclass(frozen=True)
class Reduction:
    """Reduction of the inputs of a fitted head."""

    key: str
    """Digest of everything that the reduction was computed from."""
    rank: int
    """Requested number of inputs; r is smaller if the training features span fewer dimensions."""
    validation_logits: Array
    """(validation examples, outputs) of the kept head, to be compared with those of the expanded head."""
    expansion: Expansion


def parse_logits(data: bytes) -> Array:
    """Parse `validation_logits` from the bytes of a .npy file; raise ValueError unless they are 2-D and finite."""
    logits = np.asarray(np.load(io.BytesIO(data), allow_pickle=False), np.float32)
    if logits.ndim != 2 or not np.isfinite(logits).all():
        raise ValueError(f"an array of shape {logits.shape}, or values that are not finite")
    return logits


def make_expansion(
    store: FeatureStore, rows: Sequence[Example], coefficients: Array | None, directions: Array | None
) -> Expansion:
    """Create an expansion from distinct training rows, with either the coefficients or a sketch's directions."""
    shards = sorted({row.shard: row for row in rows}.items())
    index_of = {shard: index for index, (shard, _) in enumerate(shards)}
    return Expansion(
        np.frombuffer(b"".join(row.content_hash for row in rows), np.uint8).reshape(len(rows), 32),
        np.array([row.view for row in rows], np.int32),
        np.array([index_of[row.shard] for row in rows], np.int32),
        np.array([os.fsencode(Path(store.describe_source(row)).name) for _, row in shards], np.bytes_),
        coefficients,
        directions,
    )
