"""Canary: extract some stored rows again and compare them, before new features are added to a store.

Library versions are not part of the fingerprint, because most of them do not change features. The canary detects a
version that does change them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from base.errors import FeatureStoreError
from extract.config import ExtractConfig
from extract.decoding.decode import DEFAULT_POLICY
from extract.decoding.policy import DecodePolicy, find_policy
from extract.load import load_image, load_view
from extract.pipeline import Backbone
from extract.stores import NEW_STORE_ADVICE
from features.catalog.tables import ImageRow
from features.schema import FeatureKey, Features, round_features
from features.store import Example, FeatureStore

NUM_ROWS = 8
MAX_SEARCHED = 256
"""Largest number of pictures to look up by content hash, if the catalog has none of their paths."""
TOLERANCE = 2e-3
"""Largest accepted difference in a row, relative to the row's largest value; two roundings to float16 give 1e-3."""


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
        store: the store before any feature is added.
        paths: paths of the pictures in the folder. If the catalog has none of them, because they were renamed or the
            catalog was rebuilt, the first ones are looked up by content hash.
        config: options of the extraction.
        backbone: backbone that computes the new features.
        versions: versions of the installed libraries.
        output: index of the backbone's output that belongs to the store.

    Returns:
        The number of rows compared, at most `NUM_ROWS`.

    Raises:
        FeatureStoreError: a row differs by more than the tolerance, or no picture of a stored row was found.
    """
    scanned = frozenset(paths)
    examples = [example for example in store.examples if example.path in scanned]
    rows = choose_examples([view for e in examples for view in store.list_views(e, store.num_views)])
    policy = find_policy(store.fingerprint.decode_policy) or DEFAULT_POLICY

    def load(rows: Iterable[Example]) -> dict[Example, NDArray[np.float32]]:
        return _load_views(rows, config, backbone, policy)

    views = load(rows) or load(_find_stored(store, paths, config))
    changed = describe_version_changes(store.origin.versions, versions)
    if not views:
        raise FeatureStoreError(
            store.path,
            f"a picture in {config.images} with a stored feature, to extract again and compare",
            f"none ({changed})",
            NEW_STORE_ADVICE,
        )
    recomputed, _ = round_features(backbone.run(np.stack(list(views.values())))[output])
    differences = measure_differences(store.read(list(views)), recomputed)
    worst = int(np.argmax(differences))
    if not differences[worst] <= TOLERANCE:
        raise FeatureStoreError(
            store.path,
            f"equal features when extracted again (within {TOLERANCE:g} of the largest value in a row)",
            f"a difference of {differences[worst]:.2g} for {list(views)[worst].path} ({changed})",
            "Install the recorded versions, or give another --store or --new-store",
        )
    return len(views)


def _load_views(
    examples: Iterable[Example], config: ExtractConfig, backbone: Backbone, policy: DecodePolicy
) -> dict[Example, NDArray[np.float32]]:
    """Load the views of the examples, except those whose pictures have changed since extraction."""
    views: dict[Example, NDArray[np.float32]] = {}
    for example in examples:
        row = ImageRow(example.path, example.label, example.split, 0, 0, example.content_hash)
        for view in load_view(row, example.view, config, backbone.prepare, policy).views.values():
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
    """Choose `NUM_ROWS` examples, evenly spaced in the order of the shards."""
    candidates = sorted(examples, key=lambda e: (e.shard, e.row, e.path))
    if len(candidates) <= NUM_ROWS:
        return candidates
    return [candidates[place] for place in np.linspace(0, len(candidates) - 1, NUM_ROWS).round().astype(int)]


def measure_differences(stored: Features, recomputed: Features) -> NDArray[np.float64]:
    """Return the largest difference in each row, relative to the row's largest stored value; (n,) float64."""
    axes, exact = tuple(range(1, stored.ndim)), stored.astype(np.float64)
    differences = np.abs(exact - recomputed).max(axis=axes)
    return np.asarray(differences / np.maximum(np.abs(exact).max(axis=axes), 1e-6), np.float64)


def describe_version_changes(recorded: Mapping[str, str], installed: Mapping[str, str]) -> str:
    """Describe the libraries whose installed versions differ from those recorded in a store."""
    changed = [
        f"{name} {recorded.get(name)} recorded, {found} installed"
        for name, found in installed.items()
        if found != recorded.get(name)
    ]
    return ", ".join(changed) or "the same library versions"
