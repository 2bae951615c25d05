"""Settings to compare: the features that a head can be trained on, and the options that select them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from features.cuts import list_cuts, open_store
from features.schema import FEATURE_DTYPE
from features.store import FeatureStore

MAX_PRODUCTS = 3e12
"""Largest number of multiplications for the inner products of a setting; about half a minute."""


@dataclass(frozen=True)
class Setting:
    """Features of the same pictures that a head can be trained on."""

    name: str
    stores: tuple[FeatureStore, ...]
    """Store of each cut layer."""
    train: Mapping[str, Any]
    """Options of training that select the features."""
    extract: Mapping[str, Any] | None = None
    """Options of extraction that compute the features; None if the features of all pictures are stored."""
    rate: float = 0.0
    """Pictures extracted per second; 0 if the features are stored, or the rate is unknown."""

    @property
    def num_inputs(self) -> int:
        """Number of inputs of the head."""
        return sum(prod(store.feature_shape) for store in self.stores)

    @property
    def bytes_per_picture(self) -> int:
        """Size of the features of a picture, uncompressed."""
        return self.num_inputs * FEATURE_DTYPE.itemsize

    @property
    def digests(self) -> list[str]:
        """Digests of the fingerprints; equal digests mean equal features."""
        return [store.fingerprint.digest for store in self.stores]

    def list_hashes(self) -> set[bytes]:
        """Return the content hashes of the pictures whose features are stored for every cut layer."""
        return set.intersection(*({example.content_hash for example in store.examples} for store in self.stores))


def open_settings(path: Path, image_size: int | None = None) -> list[Setting]:
    """Open the settings that a store allows: each cut layer, its means, and the means of all cut layers.

    The first setting is the one that is trained on by default, or that of all cut layers.

    Args:
        path: a store, a packed store, or a folder with a store for each cut layer.
        image_size: size in the names of the settings; None leaves it out.
    """
    cuts = list_cuts(path)
    prefix = f"{image_size} px, " if image_size else ""
    settings, pooled = [], list[FeatureStore]()
    has_places = False
    for cut in cuts or [""]:
        store = open_store(path, cut)
        options: dict[str, Any] = {"cut": cut} if cuts else {}
        name = f"{prefix}{store.fingerprint.cut}"
        if len(store.feature_shape) == 3:
            settings.append(Setting(name, (store,), options))
            store, options, has_places = open_store(path, cut, "avg"), options | {"pool": "avg"}, True
        settings.append(Setting(f"{name}, {store.fingerprint.pool.split()[0]}", (store,), options))
        pooled.append(store)
    if len(cuts) > 1:
        options = {"cut": ",".join(cuts)} | ({"pool": "avg"} if has_places else {})
        settings.insert(0, Setting(f"{prefix}{len(cuts)} layers", tuple(pooled), options))
    return settings


def fits(setting: Setting, num_pictures: int) -> bool:
    """Return whether a setting can be measured on a number of pictures in a bounded time."""
    return num_pictures**2 * setting.num_inputs <= MAX_PRODUCTS or setting.num_inputs <= num_pictures
