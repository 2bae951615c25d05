"""Schema of a store: names, versions, and the fingerprint of all settings that change the features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from itertools import chain
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SCHEMA_VERSION = 1
FEATURE_DTYPE = np.dtype(np.float16)
MAX_FEATURE_BYTES = 128 * 2**20
"""Largest size of one feature, which must fit into a shard."""
VIEW_NAME, DERIVED_FOLDER, QUARANTINE_FOLDER = "features.h5", "derived", "quarantine"
BACKBONE_FOLDER = "backbone"
"""Folder of the quantised backbone of a store whose features were computed in int8."""
TRAIN, VALIDATION, TEST = "train", "validation", "test"
"""Splits of pictures; the split of a folder without splits is empty."""

_WITHOUT_SIGN, _INFINITY = np.uint16(0x7FFF), 0x7C00

Features = NDArray[np.float16]


class FeatureStatus(StrEnum):
    """Status of a stored feature; only `OK` is usable for training."""

    OK = "ok"
    NONFINITE = "nonfinite"
    OVERFLOW = "overflow"


class ImageStatus(StrEnum):
    """Extraction status of an image."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


class FeatureKey(NamedTuple):
    """Key of a stored feature: content hash and view index."""

    content_hash: bytes
    """SHA-256 of the image file, 32 bytes."""
    view: int
    """0 for the image itself, 1 and above for its augmentations."""


@dataclass(frozen=True)
class Fingerprint:
    """All settings that change a feature, except library versions, which the canary checks."""

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
    calibration: str = ""
    """SHA-256 of the quantised backbone, 64 hexadecimal digits; empty unless the precision is int8."""

    @classmethod
    def from_json(cls, text: str) -> Fingerprint:
        """Decode the result of `encode`; raise ValueError or TypeError for unknown fields or wrong types."""
        found = cls(**json.loads(text))
        for name, value in asdict(found).items():
            if type(value) is not (int if name in ("image_size", "schema_version") else str):
                raise ValueError(f"{name} is {value!r}")
        found.encode().encode()  # Fails for a lone surrogate, which JSON allows.
        return found

    def encode(self) -> str:
        """Encode the fields as canonical JSON.

        `pool` and `calibration` are omitted at their defaults: older stores do not have the fields, and their digests
        must not change.
        """
        defaults = {"pool": "none", "calibration": ""}
        return encode_json({name: value for name, value in asdict(self).items() if value != defaults.get(name)})

    @property
    def digest(self) -> str:
        """SHA-256 of the encoded fields, 64 hexadecimal digits."""
        return hashlib.sha256(self.encode().encode()).hexdigest()

    @property
    def numbers(self) -> str:
        """Dtype of the stored features and precision of the computation, as text."""
        return f"{self.dtype}, computed in {self.precision} by {self.engine}"

    def list_differences(self, other: Fingerprint) -> list[tuple[str, Any, Any]]:
        """List the fields that differ as (name, own value, other value)."""
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return [(name, mine, theirs) for name, mine, theirs in pairs if mine != theirs]


@dataclass(frozen=True)
class Origin:
    """Source of the features in a store: recorded for users and for export, not part of the fingerprint."""

    feature_shape: tuple[int, ...]
    weights_name: str
    weights_file: str
    weights_file_sha256: str
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> Origin:
        """Decode `encode_json(asdict(origin))`; raise ValueError, TypeError or KeyError for any other text."""
        values = json.loads(text)
        found = cls(**{**values, "feature_shape": tuple(values["feature_shape"])})
        if not found.feature_shape or not all(type(size) is int and size > 0 for size in found.feature_shape):
            raise ValueError(f"feature_shape is {values['feature_shape']!r}")
        if prod(found.feature_shape) > MAX_FEATURE_BYTES // FEATURE_DTYPE.itemsize:
            raise ValueError(f"feature_shape {found.feature_shape} is too large")
        texts = [found.weights_name, found.weights_file, found.weights_file_sha256, *chain(*found.versions.items())]
        if not all(type(text) is str for text in texts):
            raise ValueError("a name in the origin is not text")
        return found


def is_training(split: str) -> bool:
    """Return whether the pictures of a split are for training; those without a split are."""
    return split in ("", TRAIN)


def encode_json(value: Any) -> str:
    """Encode a value as canonical JSON: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def convert_to_half(values: NDArray[np.float32]) -> Features:
    """Convert numbers to float16, rounded to the nearest, ties to even; beyond the maximum, to infinity."""
    with np.errstate(over="ignore"):
        return values.astype(FEATURE_DTYPE, order="C")


def round_features(
    values: NDArray[np.float32], convert: Callable[[NDArray[np.float32]], Features] = convert_to_half
) -> tuple[Features, list[FeatureStatus]]:
    """Round features to the stored dtype, and determine which rows are usable for training.

    Args:
        values: (n, ...) float32, outputs of the backbone.
        convert: faster equivalent of `convert_to_half`; it may return other bits for NaN.

    Returns:
        The rows as float16, and the status of each row: `NONFINITE` if the output has NaN or infinity, `OVERFLOW` if a
        finite value is beyond the float16 maximum of 65,504, otherwise `OK`.
    """
    rounded = convert(values)
    flat = rounded.view(np.uint16).reshape(len(rounded), int(np.prod(rounded.shape[1:])))
    # Without the sign bit, every pattern from 0x7C00 on is infinity or NaN. Takes a third of the time of isfinite.
    is_finite = (flat & _WITHOUT_SIGN).max(axis=1, initial=0) < _INFINITY
    statuses = [FeatureStatus.OK] * len(rounded)
    if not is_finite.all():
        rounded = convert_to_half(values)
    for row in np.flatnonzero(~is_finite).tolist():
        statuses[row] = FeatureStatus.OVERFLOW if np.isfinite(values[row]).all() else FeatureStatus.NONFINITE
    return rounded, statuses
