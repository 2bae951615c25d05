"""The stores of a run: where they are, what they hold, and whether this run's features belong in them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from base.errors import HeadstartError, StoreMissingError, StoreWriteError
from base.files import sync_folder
from base.lock import hold_write_lock
from extract import pixels
from extract.backbone import BACKBONE_NAME, CutBackbone, hash_weights
from extract.config import EngineName, ExtractConfig
from extract.decode import DECODE_POLICY
from extract.images.scan import Scan
from extract.images.walk import HEADSTART_STORE, identify_headstart_folder
from extract.plan import KnownStore
from extract.views import describe_views
from extract.weights.find import UNOFFICIAL, Weights, WeightsName
from features.catalog.catalog import CATALOG_NAME, Catalog, is_missing, load_fingerprint, load_origin
from features.cuts import choose_cut_folders, list_cuts
from features.schema import Fingerprint, Origin
from features.writer import check_store_folder

NEW_STORE_ADVICE = "Give another --store, or --new-store, which renames this store and keeps it"


class OtherFolderError(HeadstartError):
    """A store was filled from another folder, most of whose pictures would leave it."""


@dataclass(frozen=True)
class FeatureSpec:
    """What a store records of its features."""

    fingerprint: Fingerprint
    origin: Origin


@dataclass(frozen=True)
class StoredState(FeatureSpec):
    """Catalog of a store with features, as it was before a run."""

    path: Path
    known: KnownStore
    meta: Mapping[str, str]
    """`images_folder`, `weights`, `rows_per_second` and `images_per_second` of the last run, where recorded."""


def read_store(store: Path) -> StoredState | None:
    """Read what a store holds; None where there is no store, or one without features."""
    if is_missing(store / CATALOG_NAME):
        return None
    with closing(Catalog(store / CATALOG_NAME, writable=False)) as catalog:
        if not catalog.read_shards():
            return None
        known = KnownStore(catalog.read_images(), catalog.read_features().__contains__)
        keys = ("images_folder", "weights", "rows_per_second", "images_per_second")
        meta = {key: value for key in keys if (value := catalog.read_meta(key))}
        return StoredState(load_fingerprint(catalog), load_origin(catalog), store, known, meta)


def place_stores(store: Path, cuts: Sequence[str], *, is_new: bool) -> dict[str, Path]:
    """Return the folder for the features of each cut.

    Args:
        store: the folder of a store, or of several.
        cuts: layers to extract.
        is_new: whether the store that is there, if any, will be set aside.

    Raises:
        StoreMissingError: the folder holds something else.
    """
    if not is_new:
        places = choose_cut_folders(store, cuts)
        for place in places.values():
            check_store_folder(place)
        return places
    if not _list_stores(store):
        check_store_folder(store)
    return {cut: store / cut if len(cuts) > 1 else store for cut in cuts}


def refuse_other_folder(stored: StoredState, folder: Path, scan: Scan) -> None:
    """Raise OtherFolderError where a store was filled from another folder, and less than half of it is in this one.

    Pictures are the same by relative path and size, as in a folder that was moved.
    """
    before, images = stored.meta.get("images_folder"), stored.known.images
    if before in (None, str(folder.resolve())):
        return
    today = {(image.path, image.num_bytes) for image in scan.images}
    num_same = sum((image.path, image.num_bytes) in today for image in images)
    if 2 * num_same < len(images):
        raise OtherFolderError(
            stored.path,
            f"pictures of {before}, which the store was filled from",
            f"{folder.resolve()}, which has {num_same:,} of its {len(images):,} pictures",
            NEW_STORE_ADVICE,
        )


def set_aside(store: Path) -> Path | None:
    """Rename a store, or a folder of stores by cut, and return its new path; None where there was none.

    Raises:
        StoreLockedError: another process is writing to it.
        StoreWriteError: it cannot be renamed, as where a disk is mounted on it.
    """
    held = _list_stores(store)
    if not held:
        return None
    folder = store.resolve()
    aside = folder.with_name(f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        with ExitStack() as locks:
            for found in held:
                locks.enter_context(hold_write_lock(found))
            folder.rename(aside)
        sync_folder(folder.parent)
    except OSError as error:
        got = error.strerror or str(error)
        raise StoreWriteError(store, "a store that can be renamed", got, "Give another --store (STORE=)") from error
    return aside


def _list_stores(store: Path) -> list[Path]:
    """Return the store that a folder is, or those that it holds by cut; none where it holds something else."""
    held = [store / cut for cut in list_cuts(store)] or [store]
    held = [found for found in held if found.is_dir() and any(found.iterdir())]
    others = [
        found
        for found in held
        if identify_headstart_folder(found, {entry.name for entry in found.iterdir()}) != HEADSTART_STORE
    ]
    if 0 < len(others) < len(held):
        raise StoreMissingError(others[0], "a feature store", "something else", "Give another --store (STORE=)")
    return [] if others else held


def build_feature_spec(config: ExtractConfig, cut: str, backbone: CutBackbone) -> FeatureSpec:
    """Return the specification of the features that a backbone makes."""
    model = backbone.models[cut]
    weights = backbone.weights  # After the models were built: the file may have been found elsewhere.
    openvino = ("openvino",) if config.engine is EngineName.OPENVINO else ()
    origin = Origin(
        feature_shape=tuple(model.output.shape[1:]),
        weights_name=str(weights.name),
        weights_file=str(weights.path or ""),
        weights_file_sha256=weights.sha256,
        versions={name: _find_version(name) for name in ("tensorflow", "keras", "pillow", "h5py", "numpy", *openvino)},
    )
    return FeatureSpec(compose_fingerprint(config, cut, hash_weights(model)), origin)


def load_stored_spec(config: ExtractConfig, cut: str, stored: StoredState, weights: Weights) -> FeatureSpec | None:
    """Return a store's specification where it was made from the same weights file, else None.

    A run that finds nothing to compute then needs neither TensorFlow nor the backbone.
    """
    origin = stored.origin
    if weights.sha256 != origin.weights_file_sha256 or (not weights.sha256 and weights.name != origin.weights_name):
        return None
    fingerprint = compose_fingerprint(config, cut, stored.fingerprint.weights_sha256)
    # The same file may be elsewhere now.
    return FeatureSpec(fingerprint, replace(origin, weights_file=str(weights.path or "")))


def load_stored_weights(stores: Iterable[StoredState]) -> Weights | None:
    """Return the weights that the first store was made with, by its own record; None without a store."""
    for stored in stores:
        name, file, sha256 = stored.origin.weights_name, stored.origin.weights_file, stored.origin.weights_file_sha256
        if name in set(WeightsName):
            is_official = UNOFFICIAL not in stored.meta.get("weights", "")
            return Weights(WeightsName(name), Path(file) if file else None, sha256, is_official, from_record=True)
    return None


def compose_fingerprint(config: ExtractConfig, cut: str, weights_sha256: str) -> Fingerprint:
    """Return the fingerprint of a cut's features; the digest is that of the weight tensors up to the cut."""
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
