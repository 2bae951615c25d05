"""Plan an extraction: compare a scanned folder with the catalog of a store. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from extract.views import list_views
from features import parts
from features.catalog.tables import ImageRow
from features.contents import pause_collector
from features.schema import FEATURE_DTYPE, FeatureKey, ImageStatus

COMPRESSION = 0.21
"""Measured compression ratio of float16 mixed7 features: compressed size divided by uncompressed size."""
POOLED_COMPRESSION = 0.95
"""Compression ratio of pooled features, in which zeros are rare."""


class KnownStore(NamedTuple):
    """Images in the catalog of a store, and a function that returns whether a feature is stored."""

    images: Sequence[ImageRow] = ()
    holds: Callable[[FeatureKey], bool] = lambda _: False


@dataclass(frozen=True)
class Plan:
    """Difference between a scanned folder and a catalog."""

    unchanged: list[ImageRow]
    """Images with all features stored, and with the recorded size and modification time."""
    to_read: list[ImageRow]
    """Images with unknown content or missing features, in the order of reading."""
    gone: list[str]
    """Paths in the catalog that are no longer in the folder."""
    rows: list[ImageRow] = field(default_factory=list, compare=False)
    """Catalog rows to write before the first image is read: those that are new or differ. An image that was read before
    keeps its old size and time until it has been read again."""
    num_missing: int = field(default=0, compare=False)
    """Largest possible number of new features."""


@pause_collector()
def plan_images(scanned: Iterable[ImageRow], known: KnownStore, num_views: int = 1, *, rehash: bool = False) -> Plan:
    """Compare a scan with a store. Labels and splits are taken from the scan.

    Args:
        scanned: pictures in the folder.
        known: catalog and stored features of one store.
        num_views: number of views of each training image. An image that has view 0 but lacks others is read,
            and is usable for training even before that.
        rehash: whether to read every file again, even if size and modification time are unchanged.
    """
    by_path = {row.path: row for row in known.images}
    unchanged: list[ImageRow] = []
    to_read: list[ImageRow] = []
    changed: list[ImageRow] = []
    num_missing = 0
    for row in scanned:
        old, views = by_path.pop(row.path, None), list_views(row.split, num_views)
        num_missing += len(views)
        new = row
        if old is None or old.num_bytes != row.num_bytes:
            to_read.append(row)
        elif old.status is ImageStatus.DONE and old.modified_ns == row.modified_ns and not rehash:
            content_hash = old.content_hash or b""
            held = [known.holds(FeatureKey(content_hash, view)) for view in views]
            if held[0]:
                # Usually the old row itself, so that a million unchanged pictures need no other rows.
                is_same = (row.label, row.split, "") == (old.label, old.split, old.reason)
                row = old if is_same else row._replace(content_hash=content_hash, status=ImageStatus.DONE)
                new = row
                num_missing -= sum(held)
            (unchanged if all(held) else to_read).append(row)
        else:
            to_read.append(row)
            if old.status is not ImageStatus.PENDING:
                # Keep the old time, so that the next run reads the image if this run is interrupted.
                new = old._replace(label=row.label, split=row.split)
        if new != old:
            changed.append(new)
    return Plan(unchanged, sorted(to_read, key=hash_path), sorted(by_path), changed, num_missing)


def merge_images_to_read(plans: Iterable[Plan]) -> list[ImageRow]:
    """List the images to read for any of the plans, each once, in the order of reading."""
    return sorted({row.path: row for plan in plans for row in plan.to_read}.values(), key=hash_path)


def estimate_bytes(num_rows: int, feature_shape: tuple[int, ...]) -> int:
    """Estimate the size of features on disk, in bytes."""
    share = COMPRESSION if len(feature_shape) > 1 else POOLED_COMPRESSION
    return round(num_rows * int(np.prod(feature_shape)) * FEATURE_DTYPE.itemsize * share)


def hash_path(image: ImageRow) -> bytes:
    """Hash the path of an image, as the sort key for the order of reading.

    The order mixes the classes: each shard has pictures of all classes, and an incomplete store is usable for training.
    """
    return parts.hash_path(image.path)
