"""Values of options that extraction and training share. NumPy is not imported, so that a command starts quickly."""

from __future__ import annotations

from enum import StrEnum

VALIDATION_SHARE = 0.2
"""Default share of the training pictures that is held out if the folder has no validation/."""


class Pool(StrEnum):
    """Pooling of the cut layer's output."""

    NONE = "none"
    AVG = "avg"


class Compression(StrEnum):
    """HDF5 filter of the features in a shard; recorded in the file, not part of the fingerprint."""

    NONE = "none"
    GZIP = "gzip"


def split_cuts(text: str) -> list[str]:
    """Split the names of cut layers, which are separated by commas or by plus signs."""
    return [cut.strip() for cut in text.replace("+", ",").split(",")]
