"""What a run keeps of a reduction: enough to expand its kernel to all inputs, with the store's shards alone."""

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
from features.schema import FeatureKey
from features.store import Example, FeatureStore
from train_head.data.batches import Array
from train_head.reduction.matrix import FeatureMatrix, open_workers


@dataclass(frozen=True)
class Expansion:
    """Map of a kernel A on reduced inputs to all inputs: Xᵀ C, with rows X found by content hash and view, or V A."""

    row_hashes: NDArray[np.uint8]
    """(n, 32) content hashes of the training rows, ascending."""
    row_views: NDArray[np.int32]
    """(n,) their views."""
    row_files: NDArray[np.int32]
    """(n,) which of `files` held each."""
    files: NDArray[np.bytes_]
    """Names of the shards, or of the packed store: for messages."""
    coefficients: Array | None
    """(n, units) C = Z diag(1 / λ) A; None for a sketch."""
    directions: Array | None
    """(inputs, r) V of a sketch, else None."""

    def expand_kernel(self, store: FeatureStore, kernel: Array) -> Array:
        """Map a reduced kernel (r, units) to (inputs, units); raise HeadstartError where a row is not stored."""
        with open_workers() as workers:
            if self.directions is not None:
                return np.asarray(self.directions @ kernel, np.float32)
            if self.coefficients is None:
                raise ValueError("neither coefficients nor directions")
            return FeatureMatrix(store, self._find_rows(store), workers).multiply_transposed(self.coefficients)

    def save(self, path: Path) -> None:
        """Write an uncompressed .npz without pickled objects."""
        arrays: dict[str, Any] = {name: array for name, array in vars(self).items() if array is not None}
        np.savez(path, **arrays)

    @classmethod
    def parse(cls, data: bytes) -> Expansion:
        """Parse the bytes that `save` wrote; raise ValueError or an error of NumPy's where they are not."""
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            found = dict(file)
        num_rows, files = len(found["row_views"]), found["files"]
        for name, dtype, shape in (
            ("row_hashes", np.uint8, (num_rows, 32)),
            ("row_views", np.int32, (num_rows,)),
            ("row_files", np.int32, (num_rows,)),
        ):
            if found[name].dtype != dtype or found[name].shape != shape:
                raise ValueError(f"{name} of another shape or type")
        places = found["row_files"]
        if (
            not num_rows
            or files.ndim != 1
            or files.dtype.kind != "S"
            or not 0 <= places.min() <= places.max() < len(files)
        ):
            raise ValueError("files of another shape or type")
        (kind,) = {"coefficients", "directions"} & set(found)
        factor = found[kind]
        if factor.ndim != 2 or factor.dtype != np.float32 or (kind == "coefficients" and len(factor) != num_rows):
            raise ValueError(f"{kind} of another shape or type")
        if not np.isfinite(factor).all():
            raise ValueError("numbers that are not finite")
        factors = found.get("coefficients"), found.get("directions")
        return cls(found["row_hashes"], found["row_views"], places, files, *factors)

    def _find_rows(self, store: FeatureStore) -> list[Example]:
        keys = [FeatureKey(row.tobytes(), int(view)) for row, view in zip(self.row_hashes, self.row_views, strict=True)]
        rows = store.find_examples(keys)
        missing = [number for number, row in enumerate(rows) if row is None]
        if missing:
            file = os.fsdecode(self.files[self.row_files[missing[0]]])
            raise HeadstartError(
                f"{store.path}, {file}",
                f"the {len(rows):,} training features that the head was fitted on",
                f"{len(missing):,} missing, {keys[missing[0]].content_hash.hex()[:12]}… first",
                "Put the file back, or extract and train again",
            )
        return [row for row in rows if row is not None]


@dataclass(frozen=True)
class Reduction:
    """The reduction that a head belongs to."""

    key: str
    """Digest of what the reduction was made from."""
    rank: int
    """Inputs that were asked for; there are fewer where the training features span fewer."""
    validation_logits: Array
    """(validation examples, outputs) of the kept head; to compare with the head on all inputs."""
    expansion: Expansion


def parse_logits(data: bytes) -> Array:
    """Parse `validation_logits` as `numpy.save` wrote them; raise ValueError where they are not finite rows."""
    logits = np.asarray(np.load(io.BytesIO(data), allow_pickle=False), np.float32)
    if logits.ndim != 2 or not np.isfinite(logits).all():
        raise ValueError(f"{logits.shape} with numbers that are not finite, or of another shape")
    return logits


def make_expansion(
    store: FeatureStore, rows: Sequence[Example], coefficients: Array | None, directions: Array | None
) -> Expansion:
    """Make the expansion of distinct training rows, with the coefficients of each row or a sketch's directions."""
    shards = sorted({row.shard: row for row in rows}.items())
    place_of = {shard: place for place, (shard, _) in enumerate(shards)}
    return Expansion(
        np.frombuffer(b"".join(row.content_hash for row in rows), np.uint8).reshape(len(rows), 32),
        np.array([row.view for row in rows], np.int32),
        np.array([place_of[row.shard] for row in rows], np.int32),
        np.array([os.fsencode(Path(store.describe_source(row)).name) for _, row in shards], np.bytes_),
        coefficients,
        directions,
    )
