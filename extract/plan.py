"""Plan a run: compare today's folder with what a store holds. Pure functions, nothing is touched."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from extract.views import list_views
from features.catalog.tables import ImageRow
from features.schema import FEATURE_DTYPE, FeatureKey, ImageStatus

COMPRESSION = 0.26
"""Stored bytes per byte of float16 mixed7 features, as measured."""
POOLED_COMPRESSION = 0.9
"""The same for pooled features, which are hardly ever 0."""


class KnownStore(NamedTuple):
    """Images in a store's catalog, and whether a feature is stored."""

    images: Sequence[ImageRow] = ()
    holds: Callable[[FeatureKey], bool] = lambda _: False


@dataclass(frozen=True)
class Plan:
    """Difference between today's folder and a catalog."""

    unchanged: list[ImageRow]
    """Images with all features stored, of the size and modification time that their content hash was taken at."""
    to_read: list[ImageRow]
    """Images whose content is not known or not all stored, in the order of reading."""
    gone: list[str]
    """Paths that are no longer in the folder."""
    known: dict[str, ImageRow] = field(default_factory=dict)
    """Rows by path of images to read that stay in the catalog as they are until they have been read."""
    num_missing: int = field(default=0, compare=False)
    """Largest number of features that the store will be given."""

    @property
    def rows(self) -> list[ImageRow]:
        """Rows of the catalog before anything is read."""
        return self.unchanged + [self.known.get(row.path, row) for row in self.to_read]


def plan_images(scanned: Iterable[ImageRow], known: KnownStore, num_views: int = 1, *, rehash: bool = False) -> Plan:
    """Compare a scan with a store; labels and splits are always the scan's.

    Args:
        scanned: today's pictures.
        known: the store; what one of several stores holds does not depend on the others.
        num_views: views that training images should have; an image that lacks nothing but augmentations stays one
            that can be trained on.
        rehash: whether to read every file again, whatever its size and time.
    """
    by_path = {row.path: row for row in known.images}
    unchanged: list[ImageRow] = []
    to_read: list[ImageRow] = []
    kept: dict[str, ImageRow] = {}
    num_missing = 0
    for row in scanned:
        old, views = by_path.pop(row.path, None), list_views(row.split, num_views)
        num_missing += len(views)
        if old is None or old.num_bytes != row.num_bytes:
            to_read.append(row)
        elif old.status is ImageStatus.DONE and old.modified_ns == row.modified_ns and not rehash:
            content_hash = old.content_hash or b""
            held = [known.holds(FeatureKey(content_hash, view)) for view in views]
            if held[0]:
                row = row._replace(content_hash=content_hash, status=ImageStatus.DONE)
                num_missing -= sum(held)
            (unchanged if all(held) else to_read).append(row)
        else:
            to_read.append(row)
            if old.status is not ImageStatus.PENDING:
                # With its old time, so that the next run reads it where this one does not reach it.
                kept[row.path] = old._replace(label=row.label, split=row.split)
    return Plan(unchanged, sorted(to_read, key=hash_path), sorted(by_path), kept, num_missing)


def merge_images_to_read(plans: Iterable[Plan]) -> list[ImageRow]:
    """List what has to be read for any of several plans, each picture once, in the order of reading."""
    return sorted({row.path: row for plan in plans for row in plan.to_read}.values(), key=hash_path)


def estimate_bytes(num_rows: int, feature_shape: tuple[int, ...]) -> int:
    """Estimate the bytes that features take on disk."""
    share = COMPRESSION if len(feature_shape) > 1 else POOLED_COMPRESSION
    return round(num_rows * int(np.prod(feature_shape)) * FEATURE_DTYPE.itemsize * share)


def hash_path(image: ImageRow) -> bytes:
    """Hash a path for the order of reading, which mixes the classes: every shard is a fair sample of all of them.

    A run that is stopped half-way can be trained on, and training that reads the shards in turn sees the classes mixed.
    """
    return hashlib.sha256(image.path.encode("utf-8", "surrogateescape")).digest()
