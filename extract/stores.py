"""Stores of an extraction: their folders, their state, and the fingerprint of their features."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from base.errors import HeadstartError, StoreMissingError, StoreWriteError
from base.files import name_beside
from base.lock import hold_write_lock
from base.system import MOVES_OPEN_FILES, rename, sync_folder
from base.terminal import Console, format_count
from base.urls import Location
from base.version import find_version
from extract import pixels
from extract.backbone import BACKBONE_NAME, hash_weights
from extract.config import EngineName, ExtractConfig
from extract.cut_backbone import CutBackbone
from extract.decoding.policy import DecodePolicy
from extract.images.recognize import HEADSTART_STORE, identify_headstart_folder
from extract.images.scan import Scan
from extract.plan import KnownStore
from extract.views import describe_views
from extract.weights.find import UNOFFICIAL, Weights, WeightsName
from features.catalog.catalog import CATALOG_NAME, Catalog, is_missing, load_fingerprint, load_origin
from features.cuts import choose_cut_folders, list_cuts
from features.folder import check_store_folder
from features.labels import LABELS_KEY, LabelSource
from features.schema import Fingerprint, Origin

BITS_KEY = "sample_bits"
"""Key in the catalog of the significant bits of 16-bit pictures; missing until some were read."""
NEW_STORE_ADVICE = "Give another --store, or --new-store, which renames this store and keeps it"


class OtherFolderError(HeadstartError):
    """Store that was filled from another folder; this run would remove most of its pictures."""


@dataclass(frozen=True)
class FeatureSpec:
    """Fingerprint and origin of the features of a store."""

    fingerprint: Fingerprint
    origin: Origin


@dataclass(frozen=True)
class StoredState(FeatureSpec):
    """State of a store with features, read before a run."""

    path: Path
    known: KnownStore
    meta: Mapping[str, str]
    """Some of the values that earlier runs recorded in the catalog."""


def read_store(store: Path) -> StoredState | None:
    """Read the state of a store; return None if it does not exist or has no features."""
    if is_missing(store / CATALOG_NAME):
        return None
    with closing(Catalog(store / CATALOG_NAME, writable=False)) as catalog:
        if not catalog.read_shards():
            return None
        known = KnownStore(catalog.read_images(), catalog.read_features().__contains__)
        keys = ("images_folder", "weights", "rows_per_second", "images_per_second", LABELS_KEY, BITS_KEY)
        meta = {key: value for key in keys if (value := catalog.read_meta(key))}
        return StoredState(load_fingerprint(catalog), load_origin(catalog), store, known, meta)


def place_stores(store: Path, cuts: Sequence[str], *, is_new: bool) -> dict[str, Path]:
    """Return the folder for the features of each cut.

    Args:
        store: folder of one store, or of a store for each cut.
        cuts: names of the cut layers.
        is_new: whether an existing store will be renamed and a new one started.

    Raises:
        StoreMissingError: the folder exists and is not a store.
    """
    if not is_new:
        places = choose_cut_folders(store, cuts)
        for place in places.values():
            check_store_folder(place)
        return places
    if not _list_stores(store):
        check_store_folder(store)
    return {cut: store / cut if len(cuts) > 1 else store for cut in cuts}


def check_pictures_folder(stored: StoredState, folder: Location, scan: Scan) -> None:
    """Raise OtherFolderError if a store was filled from another folder and most of its pictures are not in this one.

    Pictures are compared by relative path and size, which are unchanged if the folder was only moved.
    """
    before, images = stored.meta.get("images_folder"), stored.known.images
    if before in (None, str(folder.resolve())):
        return
    scanned = {(image.path, image.num_bytes) for image in scan.images}
    num_shared = sum((image.path, image.num_bytes) in scanned for image in images)
    if 2 * num_shared < len(images):
        raise OtherFolderError(
            stored.path,
            f"most of the pictures of {before}, from which the store was filled",
            f"{folder.resolve()}, which has {num_shared:,} of these {len(images):,}",
            NEW_STORE_ADVICE,
        )


def log_label_changes(scan: Scan, stored: Iterable[StoredState], console: Console) -> int:
    """Print the number of labels that change, and warn if they are no longer those of a table.

    Returns:
        The number of pictures in a store whose label or split changes.
    """
    now, num_changed = {image.path: image for image in scan.images}, 0
    for state in stored:
        pairs = ((image, now.get(image.path, image)) for image in state.known.images)
        num_changed = sum(old.label != new.label or old.split != new.split for old, new in pairs)
        table = LabelSource.from_json(state.meta.get(LABELS_KEY, "")).table
        if table and not scan.labels:
            console.warning(
                f"{state.path}: the labels were those of the table {table}, and are now the names of the class "
                f"folders. Give --labels with the path of {table} to use the table again"
            )
        if num_changed:
            console.info(f"{state.path}: {format_count(num_changed, 'label')} changed since the last run")
    return num_changed


def set_aside(store: Path) -> Path | None:
    """Rename a store, or a folder with a store for each cut, and return its new path; return None if none exists.

    Raises:
        StoreLockedError: another process is writing to the store.
        StoreWriteError: the store cannot be renamed, for example because it is a mount point.
    """
    held = _list_stores(store)
    if not held:
        return None
    folder = store.resolve()
    aside = name_beside(folder, "", f"-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        with ExitStack() as locks:
            for found in held:
                locks.enter_context(hold_write_lock(found))
            if not MOVES_OPEN_FILES:
                locks.close()
            rename(folder, aside)
        sync_folder(folder.parent)
    except OSError as error:
        got = error.strerror or str(error)
        raise StoreWriteError(store, "a store that can be renamed", got, "Give another --store") from error
    return aside


def _list_stores(store: Path) -> list[Path]:
    """List a store, or the stores of the cuts in a folder; return an empty list if there are none."""
    held = [store / cut for cut in list_cuts(store)] or [store]
    held = [found for found in held if found.is_dir() and any(found.iterdir())]
    others = [
        found
        for found in held
        if identify_headstart_folder(found, {entry.name for entry in found.iterdir()}) != HEADSTART_STORE
    ]
    if 0 < len(others) < len(held):
        raise StoreMissingError(others[0], "a feature store", "something else", "Give another --store")
    return [] if others else held


def build_feature_spec(
    config: ExtractConfig, cut: str, backbone: CutBackbone, policy: DecodePolicy, calibration: str = ""
) -> FeatureSpec:
    """Return fingerprint and origin of the features that a backbone computes at a cut."""
    model = backbone.models[cut]
    weights = backbone.weights  # Read after `models`, which may find the file in another place.
    openvino = ("openvino",) if config.engine is EngineName.OPENVINO else ()
    origin = Origin(
        feature_shape=tuple(model.output.shape[1:]),
        weights_name=str(weights.name),
        weights_file=str(weights.path or ""),
        weights_file_sha256=weights.sha256,
        versions={name: find_version(name) for name in ("tensorflow", "keras", "pillow", "h5py", "numpy", *openvino)},
    )
    return FeatureSpec(compose_fingerprint(config, cut, hash_weights(model), policy, calibration), origin)


def load_stored_spec(
    config: ExtractConfig, cut: str, stored: StoredState, weights: Weights, policy: DecodePolicy
) -> FeatureSpec | None:
    """Return the specification from a store's records; return None if the store has another weights file.

    With it, a run with nothing to compute needs neither TensorFlow nor the backbone.
    """
    origin = stored.origin
    if weights.sha256 != origin.weights_file_sha256 or (not weights.sha256 and weights.name != origin.weights_name):
        return None
    fingerprint = repeat_fingerprint(config, cut, stored, policy)
    # The file may have been moved.
    return FeatureSpec(fingerprint, replace(origin, weights_file=str(weights.path or "")))


def load_stored_weights(stores: Iterable[StoredState]) -> Weights | None:
    """Return the weights recorded in the first store whose source of weights is known; None if there is none."""
    for stored in stores:
        name, file, sha256 = stored.origin.weights_name, stored.origin.weights_file, stored.origin.weights_file_sha256
        if name in set(WeightsName):
            is_official = UNOFFICIAL not in stored.meta.get("weights", "")
            return Weights(WeightsName(name), Path(file) if file else None, sha256, is_official, from_record=True)
    return None


def repeat_fingerprint(config: ExtractConfig, cut: str, stored: StoredState, policy: DecodePolicy) -> Fingerprint:
    """Return the fingerprint of new features in a store, computed with the weights and the calibration of the store."""
    found = stored.fingerprint
    return compose_fingerprint(config, cut, found.weights_sha256, policy, found.calibration)


def compose_fingerprint(
    config: ExtractConfig, cut: str, weights_sha256: str, policy: DecodePolicy, calibration: str = ""
) -> Fingerprint:
    """Return the fingerprint of the features of a cut.

    Args:
        config: options of the extraction.
        cut: the cut layer.
        weights_sha256: SHA-256 over the weight tensors up to the cut.
        policy: decode policy.
        calibration: digest of the quantised backbone; empty unless the precision is int8.
    """
    return Fingerprint(
        backbone=BACKBONE_NAME,
        weights_sha256=weights_sha256,
        cut=cut,
        image_size=config.image_size,
        decode_policy=str(policy),
        resize=pixels.RESIZE,
        scale=pixels.SCALE,
        precision=config.precision.value,
        engine=config.engine.value,
        views=describe_views(config.view_seed),
        pool=config.pool.value,
        calibration=calibration,
    )
