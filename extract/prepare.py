"""Prepare an extraction without TensorFlow: check the options, read the stores and scan the folder."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from base.cluster import LOCAL, check_address
from base.errors import UsageError
from base.lock import require_locks
from base.places.open import open_pictures
from base.terminal import Console
from base.urls import UrlPath
from extract.backbone import check_backbone_arguments
from extract.config import ExtractConfig, Precision, parse_part
from extract.engines.choose import resolve_engine
from extract.images.recognize import describe_undecodable
from extract.images.scan import Scan, check_scan, leave_out_classes, scan_images
from extract.labels.scan import scan_labeled, scan_shards
from extract.parts import check_part
from extract.sample_bits import choose_policy
from extract.stores import StoredState, check_pictures_folder, place_stores, read_store, repeat_fingerprint
from extract.weights.find import check_weights_argument
from features.catalog.catalog import CATALOG_NAME
from features.catalog.database import require_short_path
from features.contents import pause_collector
from features.folder import check_fingerprint
from features.schema import ImageStatus

Select = Callable[[Scan], Scan]
"""Function that selects pictures of a scanned folder."""


def keep_all(scan: Scan) -> Scan:
    """Return the scan with all its pictures."""
    return scan


@pause_collector()
def prepare_run(
    config: ExtractConfig, console: Console, select: Select = keep_all
) -> tuple[ExtractConfig, Scan, dict[str, Path], dict[str, StoredState]]:
    """Check the arguments, read the existing stores and scan the folder, without TensorFlow; write nothing.

    Args:
        config: options of the extraction.
        console: prints the pictures and the warnings about them.
        select: selects pictures of the scan.

    Returns:
        The options with a concrete engine, precision and location of the pictures, the scan of the whole folder, the
        store's folder for each cut, and the state of each store that has features already.

    Raises:
        HeadstartError: an argument is invalid, the layout or the table is not clear, no head can be trained on the
            classes, or a store has other features or another part of the folder.
    """
    part = parse_part(config.part)
    check_backbone_arguments(config.cuts, config.image_size)
    check_weights_argument(config.weights)
    if config.distribute != LOCAL:
        check_address("--distribute", config.distribute)
    places = place_stores(config.store, config.cuts, is_new=config.new_store)
    require_locks(config.store)
    for place in places.values():
        require_short_path(place / CATALOG_NAME)
    for place in () if config.new_store else places.values():
        check_part(place, part)
    found = {} if config.new_store else {cut: read_store(place) for cut, place in places.items()}
    stored = {cut: state for cut, state in found.items() if state is not None}
    config = resolve_engine(config, [state.fingerprint for state in stored.values()], console)
    if config.calibration and config.precision is not Precision.INT8:
        expected, got = "--precision int8", f"--precision {config.precision}"
        raise UsageError("--calibration", expected, got, "Leave --calibration out")
    config = replace(config, images=open_pictures(config.images))
    images = [image for state in stored.values() for image in state.known.images]
    known = {image.path for image in images if image.status is ImageStatus.DONE}
    scan = select(scan_pictures(config, places.values(), known))
    for line in scan.describe(config.images):
        console.info(line)
    if scan.labels:
        scan.labels.log(console)
    for warning in check_scan(config.images, scan):
        console.warning(warning)
    for warning in describe_undecodable(image.path for image in scan.images):
        console.warning(warning)
    policy = choose_policy(config, stored.values())
    for cut, state in stored.items():
        requested = repeat_fingerprint(config, cut, state, policy)
        check_fingerprint(state.path, state.fingerprint, requested)
        check_pictures_folder(state, config.images, scan)
    return config, scan, places, stored


def scan_pictures(config: ExtractConfig, stores: Collection[Path], known: Collection[str] = ()) -> Scan:
    """Scan the folder, with the labels of the table if there is one; `known` are paths of stored pictures."""
    if config.labels:
        scan = scan_labeled(config.images, config.labels, config.columns, stores, known)
        return leave_out_classes(scan, config.classes, config.min_pictures)
    if isinstance(config.images, UrlPath) and (in_shards := scan_shards(config.images, config.columns, known)):
        return leave_out_classes(in_shards, config.classes, config.min_pictures)
    if config.columns:
        raise UsageError("--columns", "a table given with --labels", repr(config.columns), "Give --labels FILE as well")
    return scan_images(config.images, stores, config.classes, config.min_pictures, known)
