"""The canary: before a store is added to, some of its rows are extracted again and compared.

Library versions are not part of the fingerprint, since most of them change nothing; this notices the one
that does, before its features are mixed with the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from base.errors import FeatureStoreError
from extract.config import MAX_PIXELS
from extract.decode import Pixels, UndecodableImageError, decode_image, read_picture
from extract.views import Prepared
from features.schema import FeatureKey, Features, round_features
from features.store import Example, FeatureStore

NUM_ROWS = 8
NUM_LOOKED_AT = 256
"""Pictures that are looked for in the store by their content, where none is known by its path."""
NOTHING_COMPARED = (
    "Nothing shows that these libraries make the same features, and they are not added to the others. Give another "
    "--store (STORE=), or --new-store (NEW_STORE=1), which keeps this one under another name"
)
TOLERANCE = 2e-3
"""Largest difference within a row over the row's largest value: two roundings to float16 give 1e-3."""


@dataclass(frozen=True)
class Canary:
    """What it takes to extract a picture again."""

    folder: Path
    prepare: Callable[[Pixels, bytes, Iterable[int]], Prepared]
    run_backbone: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    """From a batch of prepared pictures to the features that the store should hold of them."""
    versions: Mapping[str, str]
    """Of the libraries in use now."""
    max_pixels: int = MAX_PIXELS

    def compare(self, store: FeatureStore, unchanged: Sequence[str], others: Sequence[str] = ()) -> int:
        """Extracts rows again and compares them with what is stored.

        Args:
            store: the store, as it is before anything is added.
            unchanged: paths of pictures that are as they were when they were extracted.
            others: paths to look for stored pictures in, by content, where there is none of those.

        Returns:
            How many rows were compared: fewer than eight where fewer pictures are still there.

        Raises:
            FeatureStoreError: a row differs beyond the tolerance, or there is nothing to compare.
        """
        known = frozenset(unchanged)
        examples = [e for e in store.examples if e.path in known]
        rows = choose_examples([view for e in examples for view in store.list_views(e, store.num_views)])
        chosen, images = self._load(rows)
        if not chosen:
            chosen, images = self._load(self._find_stored(store, others))
        if not chosen:
            raise FeatureStoreError(
                store.path,
                f"a picture in {self.folder} whose feature is stored, to extract again and compare",
                f"none ({describe_versions(store.origin.versions, self.versions)})",
                NOTHING_COMPARED,
            )
        again, _ = round_features(self.run_backbone(np.stack(images)))
        differences = measure_differences(store.read(chosen), again)
        worst = int(np.argmax(differences))
        if not differences[worst] <= TOLERANCE:
            raise FeatureStoreError(
                store.path,
                f"to extract the same features again (within {TOLERANCE:g} of a row's largest value)",
                f"a difference of {differences[worst]:.2g} for {chosen[worst].path}"
                f" ({describe_versions(store.origin.versions, self.versions)})",
                "Go back to the libraries that the store was made with, or give another --store or --new-store",
            )
        return len(chosen)

    def _load(self, examples: Iterable[Example]) -> tuple[list[Example], list[NDArray[np.float32]]]:
        """Loads those of some examples whose pictures are still what was extracted."""
        chosen, images = [], []
        for example in examples:
            try:
                data = read_picture(self.folder / example.path, self.max_pixels)
                if hashlib.sha256(data).digest() == example.content_hash:
                    pixels = decode_image(data, self.max_pixels)
                    images.append(self.prepare(pixels, example.content_hash, [example.view])[example.view])
                    chosen.append(example)
            except UndecodableImageError:
                continue
        return chosen, images

    def _find_stored(self, store: FeatureStore, paths: Iterable[str]) -> Iterator[Example]:
        """Finds a few pictures whose content is stored, as after they were renamed, or the catalog was rebuilt."""
        num_found = 0
        for path in islice(paths, NUM_LOOKED_AT):
            try:
                content_hash = hashlib.sha256(read_picture(self.folder / path, self.max_pixels)).digest()
            except UndecodableImageError:
                continue
            (found,) = store.find_examples([FeatureKey(content_hash, 0)])
            if found is not None:
                yield found._replace(path=path)
                num_found += 1
            if num_found == NUM_ROWS:
                return


def choose_examples(examples: Sequence[Example]) -> list[Example]:
    """Chooses rows from all over the store: evenly spaced in the order of the shards."""
    candidates = sorted(examples, key=lambda e: (e.shard, e.row, e.path))
    if len(candidates) <= NUM_ROWS:
        return candidates
    positions = np.linspace(0, len(candidates) - 1, NUM_ROWS).round().astype(int)
    return [candidates[position] for position in positions]


def measure_differences(stored: Features, again: Features) -> NDArray[np.float64]:
    """Returns each row's largest difference over the stored row's largest value; (n,) float64."""
    axes = tuple(range(1, stored.ndim))
    scale = np.abs(stored.astype(np.float64)).max(axis=axes)
    differences = np.abs(stored.astype(np.float64) - again.astype(np.float64)).max(axis=axes)
    return np.asarray(differences / np.maximum(scale, 1e-6), np.float64)


def describe_versions(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Says which libraries are not those that the store was made with."""
    changed = [f"{name} {then.get(name)} then, {found} now" for name, found in now.items() if found != then.get(name)]
    return ", ".join(changed) or "the same library versions"
