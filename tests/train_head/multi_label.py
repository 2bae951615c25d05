"""Synthetic stores whose pictures have any number of labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from features.catalog.tables import ImageRow
from features.labels import LabelSource, join_labels
from features.schema import ImageStatus
from features.store import FeatureStore
from features.store_writer import FeatureWriter
from tests.train_head.synthetic import CLASSES, SHAPE, hash_text, make_store

SOURCE = LabelSource("labels.csv", "0" * 64, "path", tuple(CLASSES), is_multi_label=True)
SETS = ["", "c", "d", "o", "cd", "co", "do", "cdo"]
"""Sets of labels, as the first characters of `CLASSES`."""


def make_multi_label_store(
    folder: Path,
    label_sets: Sequence[str],
    *,
    splits: Sequence[str] = (),
    noise: float = 0.5,
    is_reversed: bool = False,
) -> FeatureStore:
    """Make a store with a picture for each set of labels, such as `co` for cats and owls.

    Args:
        folder: folder to create.
        label_sets: first characters of the labels of each picture.
        splits: split of each picture; by default none.
        noise: largest noise in the features, which have 1 in the channel of each label.
        is_reversed: whether the features are stored in the reverse order.
    """
    paths = [f"all/cats/{number:03}.jpg" for number in range(len(label_sets))]
    features = np.empty((len(paths), *SHAPE), np.float16)
    for feature, path, labels in zip(features, paths, label_sets, strict=True):
        feature[:] = np.random.default_rng(list(hash_text(path)[:8])).random(SHAPE) * noise
        feature[..., [label[0] in labels for label in CLASSES]] += 1
    step = -1 if is_reversed else 1
    store = make_store(folder, paths[::step], features=features[::step])
    return relabel(store, label_sets, splits)


def relabel(store: FeatureStore, label_sets: Sequence[str], splits: Sequence[str] = ()) -> FeatureStore:
    """Give the pictures of a store, in the order of their paths, sets of labels and splits."""
    texts = [join_labels(label for label in CLASSES if label[0] in labels) for labels in label_sets]
    return write_labels(store, texts, splits or [""] * len(texts))


def write_labels(store: FeatureStore, texts: Sequence[str], splits: Sequence[str] = ()) -> FeatureStore:
    """Give the pictures of a store, in the order of their paths, joined labels and splits, by default their own."""
    images = [
        ImageRow(example.path, text, split, 1, 1, example.content_hash, ImageStatus.DONE)
        for example, text, split in zip(store.examples, texts, splits or [e.split for e in store.examples], strict=True)
    ]
    with FeatureWriter(store.path, store.fingerprint, store.origin) as writer:
        writer.update_images(images, [], SOURCE)
    return FeatureStore(store.path)
