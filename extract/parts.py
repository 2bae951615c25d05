"""Part of a folder that a run extracts: its pictures, and its record in the store."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from base.errors import HeadstartError
from base.invocation import format_command
from base.terminal import format_count
from extract.images.scan import Scan
from features.catalog.catalog import CATALOG_NAME, Catalog, is_missing
from features.catalog.tables import ImageRow
from features.parts import PART_KEY, Parts


class OtherPartError(HeadstartError):
    """Store of another part of the folder; this run would remove its pictures."""


def keep_part(scan: Scan, part: Parts | None) -> Scan:
    """Return the scan with the pictures of a part only; unchanged for None."""
    return replace(scan, images=[image for image in scan.images if part.holds(image.path)]) if part else scan


def describe_folder(images: Sequence[ImageRow]) -> str:
    """Describe the pictures of the whole folder by their number and a digest of paths, sizes, labels and splits.

    Parts of one folder have the same description, wherever it is mounted.
    """
    hashed = hashlib.sha256()
    for image in sorted(images, key=lambda image: image.path):
        line = "\0".join((image.path, image.label, image.split, str(image.num_bytes)))
        hashed.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return f"{format_count(len(images), 'picture')} with digest {hashed.hexdigest()[:16]}"


def check_part(store: Path, part: Parts | None) -> None:
    """Check that a run of a part, or of the whole folder for None, would not remove the pictures of a store.

    Raises:
        OtherPartError: the store has pictures of another part, or of the whole folder.
    """
    if is_missing(store / CATALOG_NAME):
        return
    requested = str(part or "")
    with closing(Catalog(store / CATALOG_NAME, writable=False)) as catalog:
        recorded = catalog.read_meta(PART_KEY) or ""
        # A store without pictures, such as one whose catalog was built again from its shards, can become any part.
        if recorded == requested or not (recorded or catalog.read_images()):
            return
    expected = f"--part {recorded}, because the store has this part" if recorded else "no --part for a whole store"
    advice = "Give another --store"
    if "," in recorded:
        expected = f"a whole store or one part, not the parts {recorded} that were merged"
        command = format_command("features merge", "PART", "--into", store)
        advice = f"Merge the other parts into it with `{command}`"
    elif recorded:
        advice = f"Give --part {recorded}, or another --store"
    raise OtherPartError(store, expected, f"--part {requested}" if requested else "no --part", advice)
