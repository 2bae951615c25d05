"""Values of options and names that the stages share. NumPy is not imported, so that a command starts quickly."""

from __future__ import annotations

from enum import StrEnum

EXAMPLES_FILE = "examples.csv"
"""Table of a run, whose column `content_hash` has the SHA-256 of each picture whose features the run needs."""
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
