"""Small extractions: random weights, 75 px, `mixed0`, which costs a tenth of `mixed7`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.terminal import Console, ConsoleOptions
from base.urls import Location
from extract.config import ExtractConfig
from extract.engines import Engine
from extract.loop import ExtractionLoop
from extract.result import ExtractResult
from extract.run import extract_features
from features.maintenance.check import find_problems
from features.schema import FeatureKey, Features
from features.store import Example, FeatureStore
from features.store_writer import FeatureWriter


def configure(images: Location, store: Path, **options: Any) -> ExtractConfig:
    """Return the options of a small extraction, in batches of four."""
    defaults: dict[str, Any] = {"weights": "random", "image_size": 75, "cut": "mixed0", "batch_size": 4}
    return ExtractConfig(images, store, **(defaults | options))


def extract(images: Location, store: Path, **options: Any) -> ExtractResult:
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


class ScaledEngine:
    """Engine that multiplies the features of another one, as a changed library might."""

    def __init__(self, engine: Engine, factor: float) -> None:
        self._engine, self._factor = engine, np.float32(factor)

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return [self._factor * output for output in self._engine.run(batch)]


def assert_equal_stores(found: Path, expected: Path) -> None:
    """Assert that two stores have the same keys with the same bits, and the same pictures, and no problems."""
    features, others = read_by_key(found), read_by_key(expected)
    assert features.keys() == others.keys()
    for key, feature in features.items():
        np.testing.assert_array_equal(feature.view(np.uint16), others[key].view(np.uint16))
    assert FeatureStore(found).fingerprint == FeatureStore(expected).fingerprint
    assert [e[:4] for e in FeatureStore(found).examples] == [e[:4] for e in FeatureStore(expected).examples]
    assert find_problems(found, read_data=True, images=None, advance=lambda _: None) == []


def interrupt_before_batch(number: int, patch: pytest.MonkeyPatch, *, kill: bool = False) -> None:
    """Interrupt the next extraction before it stores its n-th batch; `kill` prevents all later commits."""
    store, commit = ExtractionLoop._store, FeatureWriter.commit
    finished: list[int] = []

    def stop(loop: ExtractionLoop, batch: Any) -> None:
        finished.append(len(finished))
        if len(finished) == number:
            raise KeyboardInterrupt
        store(loop, batch)

    def commit_unless_killed(writer: FeatureWriter) -> None:
        if len(finished) < number:
            commit(writer)

    patch.setattr(ExtractionLoop, "_store", stop)
    if kill:
        patch.setattr(FeatureWriter, "commit", commit_unless_killed)
