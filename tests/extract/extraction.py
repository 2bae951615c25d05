"""Small extractions: random weights, 75 px, `mixed0`, which costs a tenth of `mixed7`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from base.terminal import Console, ConsoleOptions
from extract.config import ExtractConfig
from extract.run import ExtractResult, extract_features
from features.schema import FeatureKey, Features
from features.store import Example, FeatureStore


def configure(images: Path, store: Path, **options: Any) -> ExtractConfig:
    """Return the options of a small extraction, in batches of four."""
    defaults: dict[str, Any] = {"weights": "random", "image_size": 75, "cut": "mixed0", "batch_size": 4}
    return ExtractConfig(images, store, **(defaults | options))


def extract(images: Path, store: Path, **options: Any) -> ExtractResult:
    """Run a small extraction."""
    return extract_features(configure(images, store, **options), Console(ConsoleOptions(quiet=True)))


def find_examples(store: FeatureStore) -> dict[str, Example]:
    """Return the examples by path."""
    return {example.path: example for example in store.examples}


def read_by_path(store: FeatureStore, paths: Iterable[str]) -> Features:
    """Read the features of pictures, in the order of their paths."""
    examples = find_examples(store)
    return store.read([examples[path] for path in paths])


def read_by_key(path: Path) -> dict[FeatureKey, Features]:
    """Read all features of a store, (1, *feature_shape) each."""
    store = FeatureStore(path)
    found = {}
    for key, place in store.contents.locations.items():
        found[key] = np.empty((1, *store.feature_shape), np.float16)
        store.contents.read_rows(place.shard, [place.row], found[key])
    return found
