"""The catalog's tables, and what their rows mean."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from features.catalog.checksummed import Row, SealedTable
from features.schema import FeatureStatus, ImageStatus

SHARDS = SealedTable(
    "shards", {"number": "INTEGER", "sha256": "TEXT", "num_rows": "INTEGER", "num_bytes": "INTEGER"}, "number"
)
FEATURES = SealedTable(
    "features",
    {"content_hash": "BLOB", "view": "INTEGER", "shard": "INTEGER", "row": "INTEGER", "status": "TEXT"},
    "content_hash, view",
)
IMAGES = SealedTable(
    "images",
    {
        "path": "TEXT",
        "label": "TEXT",
        "split": "TEXT",
        "num_bytes": "INTEGER",
        "modified_ns": "INTEGER",
        "content_hash": "BLOB",
        "status": "TEXT",
        "reason": "TEXT",
    },
    "path",
)
TABLES = (SHARDS, FEATURES, IMAGES)
_IMAGE_STATUSES = {status.value.encode(): status for status in ImageStatus}
FEATURE_STATUSES = {status.value.encode(): status for status in FeatureStatus}


class ImageRow(NamedTuple):
    """One image of today's folder, and how far extraction came with it."""

    path: str
    """Relative to the images' folder, with `/`; bytes that are not UTF-8 as surrogate escapes."""
    label: str
    split: str
    """`train`, `validation`, `test`, or empty where the folder has no splits."""
    num_bytes: int
    modified_ns: int
    content_hash: bytes | None = None
    status: ImageStatus = ImageStatus.PENDING
    reason: str = ""


class Location(NamedTuple):
    """Where a feature is, and whether it may be trained on."""

    shard: int
    row: int
    status: FeatureStatus


def decode_image(row: Row) -> ImageRow:
    """Decodes a row of `images`, which may end with its checksum."""
    path, label, split, num_bytes, modified_ns, content_hash, status, reason = row[: len(IMAGES.columns)]
    return ImageRow(
        path.decode("utf-8", "surrogateescape"),
        label.decode("utf-8", "surrogateescape"),
        split.decode(),
        num_bytes,
        modified_ns,
        content_hash or None,
        _IMAGE_STATUSES[status],
        reason.decode("utf-8", "surrogateescape"),
    )


def encode_image(image: ImageRow) -> Row:
    """Encodes an image as a row of `images`."""
    return (
        encode_text(image.path),
        encode_text(image.label),
        image.split.encode(),
        image.num_bytes,
        image.modified_ns,
        image.content_hash or b"",
        image.status.value.encode(),
        encode_text(image.reason),
    )


def refuse_outside(paths: Iterable[str]) -> None:
    """Raises ValueError for a picture's path that leads out of the folder of pictures."""
    for path in paths:
        if path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"a picture outside its folder, {path!r}")


def encode_text(text: str) -> bytes:
    """Encodes a path or a label; bytes that are not UTF-8 come out as they were."""
    return text.encode("utf-8", "surrogateescape")
