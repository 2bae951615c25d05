"""What a run keeps of a reduction: enough to expand its kernel to all inputs, with the store's shards alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.arrays import load_arrays
from base.errors import HeadstartError
from features.schema import FeatureKey
from features.store import Example, FeatureStore
from train_head.data.batches import Array
from train_head.reduction.rows import FeatureRows
from train_head.reduction.workers import open_workers


@dataclass(frozen=True)
class Expansion:
    """What maps a kernel on reduced inputs to all inputs.

    W = Xᵀ C, with the rows of X found by content hash and view; or W = V A.
    """

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

    def expand(self, store: FeatureStore, kernel: Array) -> Array:
        """Map a kernel on reduced inputs to all inputs.

        Args:
            store: where the training rows are.
            kernel: A, (r, units); for a sketch alone.

        Returns:
            W, (inputs, units) float32.

        Raises:
            HeadstartError: a training row is no longer stored.
        """
        with open_workers() as workers:
            if self.directions is not None:
                return np.asarray(self.directions @ kernel, np.float32)
            if self.coefficients is None:
                raise ValueError("neither coefficients nor directions")
            return FeatureRows(store, self._find_rows(store), workers).multiply_transposed(self.coefficients)

    def save(self, path: Path) -> None:
        """Write an uncompressed .npz without pickled objects."""
        arrays: dict[str, Any] = {name: array for name, array in vars(self).items() if array is not None}
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> Expansion:
        """Read what `save` wrote.

        Raises:
            HeadstartError: the file is missing or damaged.
        """
        try:
            arrays = load_arrays(path)
            found = cls(
                arrays["row_hashes"],
                arrays["row_views"],
                arrays["row_files"],
                arrays["files"],
                arrays.get("coefficients"),
                arrays.get("directions"),
            )
            found._check()
            return found
        except Exception as error:
            # A damaged .npz fails in zipfile, in zlib or in NumPy, each with errors of its own.
            raise HeadstartError(
                path, "the reduction of the fitted head", f"{error or type(error).__name__}", "Train again"
            ) from error

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

    def _check(self) -> None:
        """Raise ValueError where shapes or types are others than were written, or a number is not finite."""
        num_rows = len(self.row_views)
        if (self.coefficients is None) == (self.directions is None):
            raise ValueError("not one of coefficients and directions")
        factor = self.coefficients if self.directions is None else self.directions
        expected = (
            self.row_hashes.shape == (num_rows, 32)
            and self.row_hashes.dtype == np.uint8
            and self.row_views.shape == self.row_files.shape == (num_rows,)
            and self.row_views.dtype == self.row_files.dtype == np.int32
            and self.files.ndim == 1
            and self.files.dtype.kind == "S"
            and num_rows > 0
            and bool((self.row_files >= 0).all() and (self.row_files < len(self.files)).all())
            and factor is not None
            and factor.ndim == 2
            and factor.dtype == np.float32
            and (factor is self.directions or len(factor) == num_rows)
        )
        if not expected or factor is None:
            raise ValueError("arrays of other shapes or types")
        if not np.isfinite(factor).all():
            raise ValueError("numbers that are not finite")


@dataclass(frozen=True)
class Reduction:
    """The reduction that a head belongs to."""

    key: str
    """Of what the reduction was made from."""
    rank: int
    """How many inputs were asked for; there are fewer where the training features span fewer."""
    validation_logits: Array
    """(validation examples, outputs) of the fitted head, which the expanded one must give as well."""
    expansion: Expansion

    def save(self, path: Path) -> None:
        """Write what expands the head's kernel, as `Expansion.load` reads it."""
        self.expansion.save(path)


def make_expansion(
    store: FeatureStore, rows: Sequence[Example], coefficients: Array | None, directions: Array | None
) -> Expansion:
    """Make what a run keeps.

    Args:
        store: where the training rows are.
        rows: distinct training rows in their order.
        coefficients: of each row, or None.
        directions: V, or None.
    """
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
