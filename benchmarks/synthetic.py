"""Stores of synthetic features, as sparse as those of `mixed7`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from features.catalog.tables import ImageRow
from features.schema import FeatureKey, Features, FeatureStatus, Fingerprint, ImageStatus, Origin
from features.writer import FeatureWriter

SHAPE = (7, 7, 768)
ROWS_PER_BLOCK = 256
_ORIGIN = Origin(SHAPE, "synthetic", "", "")
_FINGERPRINT = Fingerprint(
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


def write_store(folder: Path, paths: Sequence[str], draw: Callable[[range], Features]) -> None:
    """Write a store with a feature for each path.

    Args:
        folder: folder of the store.
        paths: `split/label/name` of each picture.
        draw: returns the features of a range of rows.
    """
    with FeatureWriter(folder, _FINGERPRINT, _ORIGIN) as writer:
        for start in range(0, len(paths), ROWS_PER_BLOCK):
            numbers = range(start, min(start + ROWS_PER_BLOCK, len(paths)))
            keys = [FeatureKey(hashlib.sha256(paths[number].encode()).digest(), 0) for number in numbers]
            writer.add_features(keys, draw(numbers), [FeatureStatus.OK] * len(keys))
            for number, key in zip(numbers, keys, strict=True):
                split, label, _ = paths[number].split("/")
                writer.add_image(ImageRow(paths[number], label, split, 1, 1, key.content_hash, ImageStatus.DONE))
        writer.commit()
