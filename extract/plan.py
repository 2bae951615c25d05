"""Decides, without touching anything, what a run of stage one has to do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from extract.images.scan import ImageFile
from extract.views import list_views
from features.catalog.tables import ImageRow
from features.schema import FeatureKey, ImageStatus


class KnownStore(NamedTuple):
    """What a store knows of the folder."""

    images: Sequence[ImageRow]
    holds: Callable[[FeatureKey], bool]


@dataclass(frozen=True)
class Plan:
    """Today's folder against the catalog."""

    unchanged: list[ImageRow]
    """Images whose size and modification time are those that their content hash was taken at."""
    to_read: list[ImageRow]
    """Images whose content is not known or not all stored, in the order in which they are to be read."""
    gone: list[str]
    """Paths that are no longer in the folder."""
    known: dict[str, ImageRow] = field(default_factory=dict)
    """Images to read that stay in the catalog as they are until they have been read, by path."""

    @property
    def rows(self) -> list[ImageRow]:
        """Today's folder as the catalog is to have it before anything is read."""
        return self.unchanged + [self.known.get(row.path, row) for row in self.to_read]


def plan_images(scanned: Iterable[ImageFile], known: Iterable[ImageRow], *, rehash: bool) -> Plan:
    """Compares a scan with the catalog.

    Args:
        scanned: today's pictures.
        known: the catalog's images.
        rehash: whether to read every file again, whatever its size and time.

    Returns:
        The plan. Labels and splits are always the scan's. Pictures are read in the order of their paths'
        SHA-256, so that every shard is a fair sample of all classes: a run that is stopped half-way can be
        trained on, and training that goes through the shards in turn sees the classes mixed.
    """
    by_path = {row.path: row for row in known}
    unchanged, to_read, kept = [], [], {}
    for image in scanned:
        fresh = ImageRow(image.path, image.label, image.split, image.num_bytes, image.modified_ns)
        old = by_path.pop(image.path, None)
        if old is not None and old.status is not ImageStatus.PENDING and old.num_bytes == image.num_bytes:
            # With its old time, so that it is read by the next run where this one does not come to it.
            kept[image.path] = old._replace(label=image.label, split=image.split)
        if (
            old is not None
            and not rehash
            and old.status is ImageStatus.DONE
            and (old.num_bytes, old.modified_ns) == (image.num_bytes, image.modified_ns)
        ):
            unchanged.append(fresh._replace(content_hash=old.content_hash, status=ImageStatus.DONE))
        else:
            to_read.append(fresh)
    waiting = {row.path: kept[row.path] for row in to_read if row.path in kept}
    return Plan(unchanged, sorted(to_read, key=_order_by_hash), sorted(by_path), waiting)


def plan_stores(
    scanned: Sequence[ImageFile], stores: Sequence[KnownStore], num_views: int, *, rehash: bool
) -> list[Plan]:
    """Plans for each of several stores of one folder: what one holds does not depend on how far another is."""
    plans = [plan_images(scanned, store.images, rehash=rehash) for store in stores]
    return [read_incomplete(plan, store.holds, num_views) for plan, store in zip(plans, stores, strict=True)]


def merge_reading(plans: Sequence[Plan]) -> list[ImageRow]:
    """Lists what has to be read for one plan or another, each picture once, in the order of reading."""
    return sorted({row.path: row for plan in plans for row in plan.to_read}.values(), key=_order_by_hash)


def count_missing(plan: Plan, holds: Callable[[FeatureKey], bool], num_views: int) -> int:
    """Counts features that a store will be given at most."""
    return sum(
        row.content_hash is None or not holds(FeatureKey(row.content_hash, view))
        for row in plan.to_read
        for view in list_views(row.split, num_views)
    )


def read_incomplete(plan: Plan, holds: Callable[[FeatureKey], bool], num_views: int) -> Plan:
    """Has those images read as well whose features are lost, or lack views.

    Args:
        plan: made from the catalog.
        holds: says whether a feature is stored.
        num_views: how many views training images are to have.

    Returns:
        The plan; an image that lacks nothing but augmentations stays one that can be trained on.
    """
    unchanged, to_read = [], list(plan.to_read)
    for row in plan.unchanged:
        content_hash = row.content_hash or b""
        if not holds(FeatureKey(content_hash, 0)):
            to_read.append(row._replace(content_hash=None, status=ImageStatus.PENDING))
        elif all(holds(FeatureKey(content_hash, view)) for view in list_views(row.split, num_views)):
            unchanged.append(row)
        else:
            to_read.append(row)
    return replace(plan, unchanged=unchanged, to_read=sorted(to_read, key=_order_by_hash))


def _order_by_hash(row: ImageRow) -> bytes:
    return hashlib.sha256(row.path.encode("utf-8", "surrogateescape")).digest()
