"""Small stores of made-up features, for tests that need no pictures."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from features.catalog.tables import ImageRow
from features.schema import FeatureKey, Features, FeatureStatus, Fingerprint, ImageStatus, Origin
from features.writer import FeatureWriter

SHAPE = (2, 2, 3)


def make_fingerprint(**changes: object) -> Fingerprint:
    values: dict[str, object] = {
        "backbone": "InceptionV3",
        "weights_sha256": "ab" * 32,
        "cut": "mixed7",
        "image_size": 75,
        "decode_policy": "policy",
        "resize": "bilinear",
        "scale": "[-1, 1]",
        "precision": "float32",
        "engine": "tensorflow",
        "views": "none",
    }
    return Fingerprint(**(values | changes))  # type: ignore[arg-type]


def make_origin(shape: tuple[int, ...] = SHAPE) -> Origin:
    return Origin(shape, "random", "", "", {"keras": "3"})


def make_key(number: int) -> FeatureKey:
    return FeatureKey(hashlib.sha256(str(number).encode()).digest(), 0)


def make_features(numbers: range, shape: tuple[int, ...] = SHAPE) -> Features:
    return np.stack([np.random.default_rng(number).random(shape, np.float32).astype(np.float16) for number in numbers])


def make_image(number: int, label: str = "", split: str = "") -> ImageRow:
    key = make_key(number)
    label = label or ("cats", "dogs")[number % 2]
    return ImageRow(f"{label}/{number:05}.jpg", label, split, 100 + number, 7, key.content_hash, ImageStatus.DONE)


def make_writer(store: Path, rows_per_shard: int = 4, cut: str = "mixed7") -> FeatureWriter:
    return FeatureWriter(store, make_fingerprint(cut=cut), make_origin(), rows_per_shard=rows_per_shard)


def fill_store(store: Path, numbers: range, rows_per_shard: int = 4, cut: str = "mixed7") -> None:
    """Adds features and images of these numbers, whose values follow from the number alone."""
    with make_writer(store, rows_per_shard, cut) as writer:
        images = [make_image(number) for number in numbers]
        writer.update_images(images, [])
        keys = [make_key(number) for number in numbers]
        writer.add_features(keys, make_features(numbers), [FeatureStatus.OK] * len(keys))
        writer.commit()


def add_views(store: Path, numbers: range, views: range) -> None:
    """Adds views, whose values are those of the number 1,000 times the view beyond."""
    with make_writer(store) as writer:
        for number in numbers:
            keys = [make_key(number)._replace(view=view) for view in views]
            features = np.concatenate([make_features(range(n, n + 1)) for n in (number + 1000 * v for v in views)])
            writer.add_features(keys, features, [FeatureStatus.OK] * len(keys))
        writer.commit()
