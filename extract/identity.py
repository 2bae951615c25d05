"""What a store records of its features: how they are made, and where they came from."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from extract import pixels
from extract.backbone import BACKBONE_NAME, hash_weights
from extract.config import EngineName, ExtractConfig
from extract.decode import DECODE_POLICY
from extract.views import describe_views
from extract.weights.find import UNOFFICIAL, Weights, WeightsName
from features.catalog.catalog import CATALOG_NAME, Catalog, is_missing, load_fingerprint, load_origin
from features.schema import Fingerprint, Origin
from features.writer import refuse_other_fingerprint

if TYPE_CHECKING:
    import keras

_LIBRARIES = ("tensorflow", "keras", "pillow", "h5py", "numpy")
_LIBRARIES_OF = {EngineName.OPENVINO: ("openvino",)}


@dataclass(frozen=True)
class Description:
    """How the features of one cut are made, and where from."""

    fingerprint: Fingerprint
    origin: Origin


def describe_features(config: ExtractConfig, cut: str, weights: Weights, model: keras.Model) -> Description:
    """Writes down how features are made (fingerprint) and where from (origin); the model is that of the cut."""
    fingerprint = _compose(config, cut, hash_weights(model))
    origin = Origin(
        feature_shape=tuple(model.output.shape[1:]),
        weights_name=str(weights.name),
        weights_file=str(weights.path or ""),
        weights_file_sha256=weights.sha256,
        versions={name: _find_version(name) for name in (*_LIBRARIES, *_LIBRARIES_OF.get(config.engine, ()))},
    )
    return Description(fingerprint, origin)


def open_catalog(store: Path) -> Catalog | None:
    """Open a store's catalog for reading; None where there is none, or a first run was killed while making it."""
    path = store / CATALOG_NAME
    return None if is_missing(path) else Catalog(path, writable=False)


def recall_features(config: ExtractConfig, cut: str, store: Path, weights: Weights | None) -> Description | None:
    """Recalls fingerprint and origin from a store, where it was made from the same weights file.

    A run that finds nothing to compute then needs neither TensorFlow nor the backbone.

    Raises:
        FingerprintMismatchError: something else than the weights is to be done in another way.
    """
    catalog = open_catalog(store)
    if catalog is None:
        return None
    with closing(catalog):
        if not catalog.read_shards():
            return None
        stored = load_fingerprint(catalog)
        origin = load_origin(catalog)
    asked = _compose(config, cut, stored.weights_sha256)
    refuse_other_fingerprint(store, stored, asked)
    if weights is None or weights.sha256 != origin.weights_file_sha256:
        return None
    if not weights.sha256 and weights.name != origin.weights_name:
        return None
    # The same file may lie elsewhere now.
    return Description(asked, replace(origin, weights_file=str(weights.path or "")))


def recall_weights(stores: Iterable[Path]) -> Weights | None:
    """Return the weights that the first store with features was made with, by its own record; None without one."""
    for store in stores:
        catalog = open_catalog(store)
        if catalog is None:
            continue
        with closing(catalog):
            if not catalog.read_shards():
                continue
            origin = load_origin(catalog)
            is_known = UNOFFICIAL not in (catalog.read_meta("weights") or "")
        if origin.weights_name in set(WeightsName):
            path = Path(origin.weights_file) if origin.weights_file else None
            name = WeightsName(origin.weights_name)
            return Weights(name, path, origin.weights_file_sha256, is_known, is_recalled=True)
    return None


def _compose(config: ExtractConfig, cut: str, weights_sha256: str) -> Fingerprint:
    return Fingerprint(
        backbone=BACKBONE_NAME,
        weights_sha256=weights_sha256,
        cut=cut,
        image_size=config.image_size,
        decode_policy=DECODE_POLICY,
        resize=pixels.RESIZE,
        scale=pixels.SCALE,
        precision=config.precision.value,
        engine=config.engine.value,
        views=describe_views(config.view_seed),
        pool=config.pool.value,
    )


def _find_version(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"
