"""Stores of synthetic features, and folders of as many pictures."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from base.progress import ProgressBar
from features.catalog.tables import ImageRow
from features.schema import FeatureKey, Features, FeatureStatus, Fingerprint, ImageStatus, Origin
from features.store_writer import FeatureWriter

SHAPE = (7, 7, 768)
ROWS_PER_BLOCK = 256
ORIGIN = Origin(SHAPE, "synthetic", "", "")
FINGERPRINT = Fingerprint(
    backbone="InceptionV3",
    weights_sha256="0" * 64,
    cut="mixed7",
    image_size=150,
    decode_policy="synthetic",
    resize="bilinear",
    scale="[-1, 1]",
    precision="float32",
    engine="synthetic",
    views="none",
)
_FIRST_SYNTHETIC = 16
"""Least first byte of a synthetic content hash; those of `write_pictures` are lower."""
_MAX_LINKS = 60_000
"""Largest number of hard links to one file; ext4 allows 65,000."""


def make_image(path: str, status: os.stat_result | None = None) -> ImageRow:
    """Return the catalog row of a picture `split/label/name`, with a content hash that only its path determines."""
    split, label, _ = path.split("/")
    num_bytes, modified_ns = (status.st_size, status.st_mtime_ns) if status else (1, 1)
    first, *others = hashlib.sha256(path.encode()).digest()
    content_hash = bytes([_FIRST_SYNTHETIC + first % (256 - _FIRST_SYNTHETIC), *others])
    return ImageRow(path, label, split, num_bytes, modified_ns, content_hash, ImageStatus.DONE)


def write_store(
    folder: Path,
    images: Sequence[ImageRow],
    draw: Callable[[range], Features],
    fingerprint: Fingerprint = FINGERPRINT,
    origin: Origin = ORIGIN,
) -> None:
    """Write a store with a feature for each picture.

    Args:
        folder: folder of the store.
        images: the pictures.
        draw: returns the features of a range of pictures.
        fingerprint: fingerprint of the features.
        origin: shape and source of the features.
    """
    with FeatureWriter(folder, fingerprint, origin) as writer:
        for start in range(0, len(images), ROWS_PER_BLOCK):
            block = images[start : start + ROWS_PER_BLOCK]
            for image in block:
                writer.add_image(image)
            keys = [FeatureKey(image.content_hash or b"", 0) for image in block]
            writer.add_features(keys, draw(range(start, start + len(block))), [FeatureStatus.OK] * len(keys))
        writer.commit()


def write_pictures(folder: Path, places: Sequence[str], num_each: int) -> list[Path]:
    """Write small pictures into each of some folders; by their content, they come before all synthetic ones."""
    rng, paths = np.random.default_rng(0), []
    for place in places:
        (folder / place).mkdir(parents=True)
        for number in range(num_each):
            paths.append(folder / place / f"real-{number}.png")
            while True:
                Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(paths[-1])
                if hashlib.sha256(paths[-1].read_bytes()).digest()[0] < _FIRST_SYNTHETIC:
                    break
    return paths


def link_pictures(files: Sequence[Path], folder: Path, paths: Sequence[str], progress: ProgressBar) -> list[ImageRow]:
    """Create pictures that are hard links to a few files, so that they need almost no disk space.

    Args:
        files: the files.
        folder: the folder of pictures, with a folder for each split and label.
        paths: `split/label/name` of each picture.
        progress: shows the number of pictures.

    Returns:
        The catalog rows of the pictures.
    """
    sources = [folder.with_name(f"{number}.png") for number in range(max(len(files), -(-len(paths) // _MAX_LINKS)))]
    for number, source in enumerate(sources):
        shutil.copy(files[number % len(files)], source)
    statuses = [source.stat() for source in sources]
    images = []
    for number, path in enumerate(paths):
        os.link(sources[number % len(sources)], f"{folder}/{path}")
        images.append(make_image(path, statuses[number % len(sources)]))
        progress.advance(1)
    return images
