"""Decides, without touching anything, what a run of stage one has to do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from extract.images import ImageFile
from features.schema import ImageStatus
from features.tables import ImageRow


@dataclass(frozen=True)
class Plan:
    """Today's folder against the catalog."""

    unchanged: list[ImageRow]
    """Images whose size and modification time are those that their content hash was taken at."""
    to_read: list[ImageRow]
    """Images whose content is not known, in the order in which they are to be read."""
    gone: list[str]
    """Paths that are no longer in the folder."""

    @property
    def rows(self) -> list[ImageRow]:
        """Today's folder as catalog rows."""
        return self.unchanged + self.to_read


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
    unchanged, to_read = [], []
    for image in scanned:
        fresh = ImageRow(image.path, image.label, image.split, image.num_bytes, image.modified_ns)
        old = by_path.pop(image.path, None)
        if (
            old is not None
            and not rehash
            and old.status is ImageStatus.DONE
            and (old.num_bytes, old.modified_ns) == (image.num_bytes, image.modified_ns)
        ):
            unchanged.append(fresh._replace(content_hash=old.content_hash, status=ImageStatus.DONE))
        else:
            to_read.append(fresh)
    to_read.sort(key=lambda row: hashlib.sha256(row.path.encode("utf-8", "surrogateescape")).digest())
    return Plan(unchanged, to_read, sorted(by_path))
