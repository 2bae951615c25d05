"""Stage one: from a folder of pictures to a feature store."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from base.files import require_space
from base.terminal import Console
from extract.backbone import CutBackbone, check_backbone_arguments
from extract.canary import compare_rows
from extract.config import ExtractConfig
from extract.engines import check_engine
from extract.images.scan import Scan, describe_unsupported, scan_images
from extract.loop import BadPicturesError, ExtractionLoop
from extract.plan import KnownStore, estimate_bytes, hash_path, merge_images_to_read, plan_images
from extract.stores import (
    StoredState,
    build_feature_spec,
    compose_fingerprint,
    load_stored_spec,
    load_stored_weights,
    place_stores,
    read_store,
    refuse_other_folder,
    set_aside,
)
from extract.weights.find import AUTO, Weights, WeightsName, check_weights_argument, find_weights
from features.store import FeatureStore
from features.writer import FeatureWriter, check_fingerprint


@dataclass(frozen=True)
class ExtractResult:
    """Result of a run, as printed by `--json`."""

    store: Path
    """Folder of the store, or of a store for each of several cuts."""
    images: int
    """Number of pictures in the folder."""
    computed: int
    """Number of pictures with a feature that was computed."""
    reused: int
    """Number of pictures whose features were stored before."""
    duplicates: int
    """Number of copies, byte for byte, of pictures that were computed."""
    failed: list[dict[str, str]]
    """Bad pictures that the run reached: `image` and `reason` of each."""
    unsound: int
    """Number of pictures with a feature that has NaN, infinity or a value beyond float16; stored, never trained on."""
    unsound_images: list[str]
    """Paths of the unsound pictures."""
    skipped: list[dict[str, str]]
    """Files that are no pictures to extract: `path` and `reason` of each."""
    removed: int
    """Number of pictures in the store's catalog that are no longer in the folder."""
    seconds: float
    """Duration of the run."""
    images_per_second: float
    """Rate of extraction; 0 where nothing was computed."""
    fingerprint: str
    """Digest of the fingerprint; of several cuts comma-separated."""
    fingerprints: dict[str, str]
    """Digest of the fingerprint by cut."""
    weights: str
    """Name of the weights, with file and digest."""
    stopped: BadPicturesError | None
    """Error that stopped the run before its end; None otherwise."""

    @property
    def error(self) -> str:
        """Reason why the run stopped before its end; empty otherwise."""
        return str(self.stopped or "")

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        values = asdict(self)
        del values["stopped"]
        return values | {"error": self.error}


def prepare_run(config: ExtractConfig) -> tuple[Scan, dict[str, Path], dict[str, StoredState]]:
    """Check all that can be checked without TensorFlow, scan the folder and read the stores; write nothing.

    Returns:
        The scan, the folder of the store by cut, and the earlier contents of those with features that are added to.

    Raises:
        HeadstartError: an argument, the folder or a store is unsuitable.
    """
    check_backbone_arguments(config.cuts, config.image_size)
    check_weights_argument(config.weights)
    check_engine(config.engine, config.precision)
    places = place_stores(config.store, config.cuts, is_new=config.new_store)
    scan = scan_images(config.images, places.values())
    found = {} if config.new_store else {cut: read_store(place) for cut, place in places.items()}
    stored = {cut: state for cut, state in found.items() if state is not None}
    for cut, state in stored.items():
        asked = compose_fingerprint(config, cut, state.fingerprint.weights_sha256)
        check_fingerprint(state.path, state.fingerprint, asked)
        refuse_other_folder(state, config.images, scan)
    return scan, places, stored


def extract_features(config: ExtractConfig, console: Console) -> ExtractResult:
    """Bring a store up to date with a folder: compute new features, remove pictures that are gone.

    Returns:
        The result, also where too many bad pictures stopped the run.

    Raises:
        HeadstartError: an error that the user can fix; committed features stay.
    """
    started = time.monotonic()
    scan, places, stored = prepare_run(config)
    console.info(f"{config.images}: {scan.describe()}")
    weights = load_stored_weights(stored.values()) if config.weights == AUTO else None
    if weights is None or config.weights_sha256.strip().lower() not in ("", weights.sha256):
        weights = find_weights(config.weights, console, config.weights_sha256)
    console.info(f"weights: {weights}")
    backbone = CutBackbone(config, weights, console)
    known_specs = {cut: load_stored_spec(config, cut, state, weights) for cut, state in stored.items()}
    specs = {cut: known_specs.get(cut) or build_feature_spec(config, cut, backbone) for cut in places}
    # Before any store is made: a run that is refused for one cut leaves nothing of the others.
    for cut, state in stored.items():
        check_fingerprint(state.path, state.fingerprint, specs[cut].fingerprint)
    if config.new_store and (aside := set_aside(config.store)):
        console.info(f"{config.store}: a new store; the old one is now {aside}")
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                FeatureWriter(place, specs[cut].fingerprint, specs[cut].origin, compression=config.compression)
            )
            for cut, place in places.items()
        ]
        for note in [note for writer in writers for note in writer.notes]:
            console.warning(note)
        known = [KnownStore(writer.catalog.read_images(), writer.holds) for writer in writers]
        plans = [plan_images(scan.images, store, config.views, rehash=config.rehash) for store in known]
        to_read = merge_images_to_read(plans)
        loop = ExtractionLoop(config, console, writers, backbone)
        waiting = {row.path for row in to_read}
        for row in {row.path: row for plan in plans for row in plan.unchanged if row.path not in waiting}.values():
            loop.note_unsound(row, row.content_hash or b"")
        if to_read:
            num_bytes = sum(map(estimate_bytes, [plan.num_missing for plan in plans], backbone.shapes))
            require_space(writers[0].folder, num_bytes)
            paths = [image.path for image in sorted(scan.images, key=hash_path)]
            for number, (cut, place) in enumerate(places.items()):
                made, store = build_feature_spec(config, cut, backbone), FeatureStore(place)
                check_fingerprint(place, specs[cut].fingerprint, made.fingerprint)
                if store.num_features:
                    num_rows = compare_rows(store, paths, config, backbone, made.origin.versions, number)
                    console.debug(f"{num_rows} stored features of {cut} were extracted again and are the same")
            console.info(backbone.describe())
            # Built here, so that the progress bar does not count it as slow pictures.
            _ = backbone.engine
        folder = str(config.images.resolve())
        for writer, plan in zip(writers, plans, strict=True):
            before = writer.catalog.read_meta("images_folder")
            if before not in (None, folder) and plan.gone:
                console.warning(
                    f"{writer.folder} was filled from {before}; {len(plan.gone):,} of its pictures are not in {folder} "
                    "and leave the training set. Give each folder a --store (STORE=) of its own to keep both"
                )
            writer.update_images(plan.rows, plan.gone)
            writer.write_meta("images_folder", folder)
            writer.write_meta("weights", str(weights))
        stopped = None
        try:
            loop.run(to_read, config.count_bad_allowed(len(scan.images)))
        except BadPicturesError as error:
            stopped = error
        except KeyboardInterrupt:
            num_kept = len(scan.images) - len(to_read) + min(loop.num_done, len(to_read)) - len(loop.failed)
            console.warning(f"{config.store}: {num_kept:,} of {len(scan.images):,} pictures are extracted, and kept")
            raise
        if loop.num_computed:
            for writer in writers:
                writer.write_meta("images_per_second", str(loop.images_per_second))
                writer.write_meta("rows_per_second", str(loop.rows_per_second))
    num_others = loop.num_computed + loop.num_duplicates + len(loop.failed)
    digests = {cut: spec.fingerprint.digest for cut, spec in specs.items()}
    return ExtractResult(
        store=config.store,
        images=len(scan.images),
        computed=loop.num_computed,
        reused=len(scan.images) - len(to_read) + loop.num_done - num_others,
        duplicates=loop.num_duplicates,
        failed=loop.failed,
        unsound=len(loop.unsound),
        unsound_images=loop.unsound,
        skipped=[asdict(skipped) for skipped in scan.skipped],
        removed=len({path for plan in plans for path in plan.gone}),
        seconds=round(time.monotonic() - started, 3),
        images_per_second=round(loop.images_per_second, 1),
        fingerprint=",".join(digests.values()),
        fingerprints=digests,
        weights=str(weights),
        stopped=stopped,
    )


def warn_about_unusable(result: ExtractResult, console: Console) -> None:
    """Warn of the pictures that cannot be trained on, and of folders that could not be read."""
    if result.failed:
        first = result.failed[0]
        console.warning(
            f"{len(result.failed):,} pictures could not be used, such as {first['image']}: {first['reason']}"
        )
    if result.unsound:
        console.warning(
            f"{result.unsound:,} pictures have features with NaN or overflow and are not trained on, such as "
            f"{result.unsound_images[0]}"
        )
    if unsupported := describe_unsupported((file["path"], file["reason"]) for file in result.skipped):
        console.warning(unsupported)


def estimate_run(config: ExtractConfig, console: Console) -> dict[str, Any]:
    """Estimate what a run would compute, how long it would take and how much it would store; change nothing.

    The rate is the last run's on this store, else measured on random pixels.
    """
    scan, places, stored = prepare_run(config)
    known = [stored[cut].known if cut in stored else KnownStore() for cut in places]
    plans = [plan_images(scan.images, store, config.views, rehash=config.rehash) for store in known]
    num_to_read, num_rows = len(merge_images_to_read(plans)), [plan.num_missing for plan in plans]
    backbone = CutBackbone(config, Weights(WeightsName.RANDOM), console)
    found = [state.meta.get("rows_per_second") or state.meta.get("images_per_second") for state in stored.values()]
    rates = [float(rate) for rate in found if rate and float(rate)]
    seconds = max(num_rows) / (min(rates) if rates else _measure_rate(config, backbone))
    return {
        "images": len(scan.images),
        "classes": scan.count_by_class(),
        "to_read": num_to_read,
        "reused": len(scan.images) - num_to_read,
        "skipped": [asdict(skipped) for skipped in scan.skipped],
        "estimated_bytes": sum(map(estimate_bytes, num_rows, backbone.shapes)),
        "estimated_seconds": round(seconds, 1),
        "images_per_second": round(num_to_read / seconds, 1) if seconds else 0.0,
    }


def _measure_rate(config: ExtractConfig, backbone: CutBackbone) -> float:
    num_streams, side, engine = backbone.streams.num_streams, config.image_size, backbone.engine
    batch = np.random.default_rng(0).uniform(-1, 1, (config.effective_batch_size, side, side, 3)).astype(np.float32)
    with ThreadPoolExecutor(num_streams) as pool:
        list(pool.map(engine.run, [batch] * num_streams))
        started = time.monotonic()
        list(pool.map(engine.run, [batch] * num_streams))
    return num_streams * len(batch) / (time.monotonic() - started)
