"""Schema of a store: names, versions, and the fingerprint over everything that changes a feature's value."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from itertools import chain
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SCHEMA_VERSION = 1
FEATURE_DTYPE = np.dtype(np.float16)
MAX_ROWS_PER_SHARD = 1024
MAX_BYTES_PER_SHARD = 128 * 2**20
VIEW_NAME, DERIVED_FOLDER, QUARANTINE_FOLDER = "features.h5", "derived", "quarantine"

_WITHOUT_SIGN, _INFINITY = np.uint16(0x7FFF), 0x7C00

Features = NDArray[np.float16]


class FeatureStatus(StrEnum):
    """Whether a stored feature may be trained on."""

    OK = "ok"
    NONFINITE = "nonfinite"
    OVERFLOW = "overflow"


class ImageStatus(StrEnum):
    """How far extraction came with an image of the folder."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


class FeatureKey(NamedTuple):
    """Key of a stored feature: content hash and view index."""

    content_hash: bytes
    """SHA-256 of the image file, 32 bytes."""
    view: int
    """0 for the image itself, from 1 on for its augmentations."""


class Pool(StrEnum):
    """Pooling of the cut layer's output."""

    NONE = "none"
    AVG = "avg"


@dataclass(frozen=True)
class Fingerprint:
    """Everything that changes a feature's value, except library versions, for which the canary compares values."""

    backbone: str
    weights_sha256: str
    cut: str
    image_size: int
    decode_policy: str
    resize: str
    scale: str
    precision: str
    engine: str
    views: str
    dtype: str = FEATURE_DTYPE.name
    schema_version: int = SCHEMA_VERSION
    pool: str = "none"
    """Pooling of the cut layer's output before it is stored."""

    @classmethod
    def from_json(cls, text: str) -> Fingerprint:
        """Decode the result of `encode`; raise ValueError or TypeError for other fields, or of other types."""
        found = cls(**json.loads(text))
        for name, value in asdict(found).items():
            if type(value) is not (int if name in ("image_size", "schema_version") else str):
                raise ValueError(f"{name} is {value!r}")
        found.encode().encode()  # A lone surrogate, which JSON can hold, has no digest.
        return found

    def encode(self) -> str:
        """Encode the fields as canonical JSON.

        A field that older stores do not have is left out at its default, so that their digests do not change.
        """
        return encode_json({name: value for name, value in asdict(self).items() if (name, value) != ("pool", "none")})

    @property
    def digest(self) -> str:
        """SHA-256 over the encoded fields, 64 hexadecimal digits."""
        return hashlib.sha256(self.encode().encode()).hexdigest()

    @property
    def numbers(self) -> str:
        """Types of the stored numbers and of the computation, for tables."""
        return f"{self.dtype}, computed in {self.precision} by {self.engine}"

    def list_differences(self, other: Fingerprint) -> list[tuple[str, Any, Any]]:
        """List the fields that differ as (name, own value, the other's value)."""
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return [(name, mine, theirs) for name, mine, theirs in pairs if mine != theirs]


@dataclass(frozen=True)
class Origin:
    """Source of a store's features: recorded for people and for export, not fingerprinted."""

    feature_shape: tuple[int, ...]
    weights_name: str
    weights_file: str
    weights_file_sha256: str
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> Origin:
        """Decode the result of `encode_json(asdict(origin))`; raise ValueError, TypeError or KeyError for any other."""
        values = json.loads(text)
        found = cls(**{**values, "feature_shape": tuple(values["feature_shape"])})
        if not found.feature_shape or not all(type(size) is int and size > 0 for size in found.feature_shape):
            raise ValueError(f"feature_shape is {values['feature_shape']!r}")
        if prod(found.feature_shape) > MAX_BYTES_PER_SHARD // FEATURE_DTYPE.itemsize:
            raise ValueError(f"features of {found.feature_shape}")
        texts = [found.weights_name, found.weights_file, found.weights_file_sha256, *chain(*found.versions.items())]
        if not all(type(text) is str for text in texts):
            raise ValueError("names that are no text")
        return found


def encode_json(value: Any) -> str:
    """Encode a value as JSON in one canonical form: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def count_rows_per_shard(feature_shape: tuple[int, ...]) -> int:
    """Return how many features a shard holds, so that building one in memory stays cheap for any shape."""
    bytes_per_row = int(np.prod(feature_shape)) * FEATURE_DTYPE.itemsize
    return max(1, min(MAX_ROWS_PER_SHARD, MAX_BYTES_PER_SHARD // bytes_per_row))


def round_features(values: NDArray[np.float32]) -> tuple[Features, list[FeatureStatus]]:
    """Round features to the stored dtype, and find the rows that may not be trained on.

    Args:
        values: (n, ...) float32, outputs of the backbone.

    Returns:
        The rows as float16, and the status of each: `NONFINITE` where the backbone's output has NaN or infinity,
        `OVERFLOW` where a finite value is beyond float16's 65,504, else `OK`.
    """
    with np.errstate(over="ignore"):
        rounded = values.astype(FEATURE_DTYPE, order="C")
    flat = rounded.view(np.uint16).reshape(len(rounded), int(np.prod(rounded.shape[1:])))
    # Without its sign, a float16 from this pattern on is infinite or NaN: a third of the time that isfinite takes.
    kept = (flat & _WITHOUT_SIGN).max(axis=1, initial=0) < _INFINITY
    statuses = [FeatureStatus.OK] * len(rounded)
    for row in np.flatnonzero(~kept).tolist():
        statuses[row] = FeatureStatus.OVERFLOW if np.isfinite(values[row]).all() else FeatureStatus.NONFINITE
    return rounded, statuses
