"""The canary: before a store is added to, some of its rows are extracted again and compared.

Library versions are not part of the fingerprint, since most of them change nothing; this notices the one
that does, before its features are mixed with the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from base.errors import FeatureStoreError
from extract.config import ExtractConfig
from extract.loop import Backbone, load_image
from extract.stores import NEW_STORE_ADVICE
from features.catalog.tables import ImageRow
from features.schema import FeatureKey, Features, round_features
from features.store import Example, FeatureStore

NUM_ROWS = 8
MAX_SEARCHED = 256
"""Largest number of pictures that are searched by their content, where none is known by its path."""
TOLERANCE = 2e-3
"""Largest difference within a row over the row's largest value: two roundings to float16 give 1e-3."""


def compare_rows(
    store: FeatureStore,
    paths: Sequence[str],
    config: ExtractConfig,
    backbone: Backbone,
    versions: Mapping[str, str],
    output: int = 0,
) -> int:
    """Extract rows again and compare them with the stored ones.

    Args:
        store: the store, as it is before anything is added.
        paths: today's pictures; where none is still stored under its path, the first ones are searched by
            content, as after they were renamed or the catalog was rebuilt.
        config: options of the run.
        backbone: backbone that will add to the store.
        versions: versions of the libraries in use now.
        output: number of the backbone's output that the store holds.

    Returns:
        The number of rows compared: fewer than eight where fewer pictures are still there.

    Raises:
        FeatureStoreError: a row differs beyond the tolerance, or there is nothing to compare.
    """
    known = frozenset(paths)
    examples = [example for example in store.examples if example.path in known]
    rows = choose_examples([view for e in examples for view in store.list_views(e, store.num_views)])
    views = _load_views(rows, config, backbone) or _load_views(_find_stored(store, paths, config), config, backbone)
    changed = describe_version_changes(store.origin.versions, versions)
    if not views:
        raise FeatureStoreError(
            store.path,
            f"a picture in {config.images} whose feature is stored, to extract again and compare",
            f"none ({changed})",
            f"Nothing shows that these libraries make the same features, so none are added. {NEW_STORE_ADVICE}",
        )
    again, _ = round_features(backbone.run(np.stack(list(views.values())))[output])
    differences = measure_differences(store.read(list(views)), again)
    worst = int(np.argmax(differences))
    if not differences[worst] <= TOLERANCE:
        raise FeatureStoreError(
            store.path,
            f"to extract the same features again (within {TOLERANCE:g} of a row's largest value)",
            f"a difference of {differences[worst]:.2g} for {list(views)[worst].path} ({changed})",
            "Go back to the libraries that the store was made with, or give another --store or --new-store",
        )
    return len(views)


def _load_views(
    examples: Iterable[Example], config: ExtractConfig, backbone: Backbone
) -> dict[Example, NDArray[np.float32]]:
    """Load the views of those examples whose pictures have not changed since they were extracted."""
    views: dict[Example, NDArray[np.float32]] = {}
    for example in examples:

        def list_wanted(_: ImageRow, content_hash: bytes, example: Example = example) -> list[int]:
            return [example.view] if content_hash == example.content_hash else []

        row = ImageRow(example.path, example.label, example.split, 0, 0)
        for view in load_image(row, config, backbone.prepare, list_wanted).views.values():
            views[example] = view
    return views


def _find_stored(store: FeatureStore, paths: Sequence[str], config: ExtractConfig) -> list[Example]:
    found: list[Example] = []
    for path in islice(paths, MAX_SEARCHED):
        loaded = load_image(ImageRow(path, "", "", 0, 0), config, lambda *_: {}, lambda *_: [])
        examples = store.find_examples([FeatureKey(loaded.content_hash, 0)])
        found += [example._replace(path=path) for example in examples if example]
        if len(found) == NUM_ROWS:
            break
    return found


def choose_examples(examples: Sequence[Example]) -> list[Example]:
    """Choose rows from all over the store, evenly spaced in the order of the shards."""
    candidates = sorted(examples, key=lambda e: (e.shard, e.row, e.path))
    if len(candidates) <= NUM_ROWS:
        return candidates
    return [candidates[place] for place in np.linspace(0, len(candidates) - 1, NUM_ROWS).round().astype(int)]


def measure_differences(stored: Features, again: Features) -> NDArray[np.float64]:
    """Return each row's largest difference over the stored row's largest value; (n,) float64."""
    axes, exact = tuple(range(1, stored.ndim)), stored.astype(np.float64)
    differences = np.abs(exact - again).max(axis=axes)
    return np.asarray(differences / np.maximum(np.abs(exact).max(axis=axes), 1e-6), np.float64)


def describe_version_changes(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return the libraries whose versions differ from those that the store was made with."""
    changed = [f"{name} {then.get(name)} then, {found} now" for name, found in now.items() if found != then.get(name)]
    return ", ".join(changed) or "the same library versions"
