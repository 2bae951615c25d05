"""Extract the features of a folder of pictures into a feature store."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from base.cluster import LOCAL, require_answer
from base.files import require_space
from base.terminal import Console, format_count
from extract.calibrate import Calibrator
from extract.canary import compare_rows
from extract.config import ExtractConfig, parse_part
from extract.counts import BadPicturesError
from extract.cut_backbone import CutBackbone
from extract.decoding.policy import DecodePolicy
from extract.distribute.run import RayExtraction
from extract.images.recognize import list_decodable
from extract.images.scan import Scan
from extract.loop import Extraction, ExtractionLoop
from extract.parts import describe_folder, keep_part
from extract.plan import KnownStore, Plan, estimate_bytes, hash_path, merge_images_to_read, plan_images
from extract.prepare import Select, keep_all, prepare_run
from extract.reference import compare_with_keras
from extract.result import ExtractResult
from extract.sample_bits import decide_policy
from extract.stores import (
    BITS_KEY,
    FeatureSpec,
    StoredState,
    build_feature_spec,
    load_stored_spec,
    load_stored_weights,
    log_label_changes,
    set_aside,
)
from extract.weights.find import AUTO, Weights, find_weights
from features.catalog.tables import ImageRow
from features.contents import pause_collector
from features.folder import check_fingerprint
from features.parts import FOLDER_KEY, PART_KEY
from features.store import FeatureStore
from features.store_writer import FeatureWriter


@dataclass(frozen=True)
class _Run:
    """State of an extraction before the first picture is read."""

    config: ExtractConfig
    console: Console
    scan: Scan
    """Pictures to extract: those of the folder, or of a part of it."""
    part_meta: Mapping[str, str]
    """Record of the part in the catalog; empty for the whole folder."""
    places: Mapping[str, Path]
    """Folder of the store for each cut."""
    weights: str
    """Source, file and digest of the weights."""
    backbone: CutBackbone
    specs: Mapping[str, FeatureSpec]
    """Fingerprint and origin of the features of each cut."""
    num_relabeled: int
    """Number of pictures of the last run whose label or split changed."""
    policy: DecodePolicy
    has_sample_bits: bool
    """Whether the significant bits of 16-bit samples were found or given."""


def extract_features(config: ExtractConfig, console: Console, select: Select = keep_all) -> ExtractResult:
    """Update a store to match a folder: compute missing features, and remove deleted pictures from the catalog.

    Args:
        config: options of the extraction.
        console: prints messages and progress.
        select: selects the pictures of the folder to extract.

    Returns:
        The result, even if too many unusable pictures stopped the run.

    Raises:
        HeadstartError: the run failed; features stored before the failure are kept.
    """
    started = time.monotonic()
    config, scan, places, stored = prepare_run(config, console, select)
    num_relabeled = log_label_changes(scan, stored.values(), console)
    policy, has_sample_bits = decide_policy(config, scan.images, stored.values(), len(places), console)
    weights = _choose_weights(config, console, stored)
    console.info(f"weights: {weights}")
    backbone = CutBackbone(config, weights, console)
    if len(stored) < len(places):
        # Before the backbone of a new store is loaded.
        require_answer("--distribute", config.distribute)
    calibrator = Calibrator(config, console, scan.images, stored, policy, backbone)
    calibrator.quantize_new()
    specs = _compose_specs(config, places, stored, backbone, policy)
    # Only now: parts agree with each other because everything above is decided from the whole folder.
    scan, part_meta = _select_part(config, scan, console)
    run = _Run(
        config=config,
        console=console,
        scan=scan,
        part_meta=part_meta,
        places=places,
        weights=str(weights),
        backbone=backbone,
        specs=specs,
        num_relabeled=num_relabeled,
        policy=policy,
        has_sample_bits=has_sample_bits,
    )
    if len(stored) < len(places):
        calibrator.load_stored()
        _compare_engine(run)
    if config.new_store and (aside := set_aside(config.store)):
        console.info(f"{config.store}: new store; the previous store is now {aside}")
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                FeatureWriter(place, specs[cut].fingerprint, specs[cut].origin, compression=config.compression)
            )
            for cut, place in places.items()
        ]
        for writer in writers:
            for note in writer.notes:
                console.warning(note)
        with pause_collector():
            known = [KnownStore(writer.catalog.read_images(), writer.holds) for writer in writers]
            plans = [plan_images(scan.images, store, config.views, rehash=config.rehash) for store in known]
        to_read = merge_images_to_read(plans)
        create = ExtractionLoop if config.distribute == LOCAL else RayExtraction
        loop: Extraction = create(config, console, writers, backbone, policy)
        waiting = {row.path for row in to_read}
        unsound = {content_hash for writer in writers for content_hash, _ in writer.list_unsound()}
        kept = (row for plan in plans for row in plan.unchanged if row.content_hash in unsound)
        for row in {row.path: row for row in kept if row.path not in waiting}.values():
            loop.counts.note_unsound(row, row.content_hash or b"")
        if to_read:
            require_answer("--distribute", config.distribute)
            num_bytes = sum(map(estimate_bytes, [plan.num_missing for plan in plans], backbone.shapes))
            require_space(writers[0].folder, num_bytes)
            calibrator.load_stored()
            _compare_stored_rows(run)
            _start_engine(run, writers)
        _update_catalogs(run, writers, plans)
        stopped = _run_loop(run, loop, to_read)
        if loop.counts.num_computed:
            for writer in writers:
                writer.write_meta("images_per_second", str(loop.images_per_second))
                writer.write_meta("rows_per_second", str(loop.rows_per_second))
    return _build_result(run, plans, len(to_read), loop, stopped, started)


def _select_part(config: ExtractConfig, scan: Scan, console: Console) -> tuple[Scan, dict[str, str]]:
    """Return the scan of the requested part, and its record in the catalog; the scan itself without a part."""
    part = parse_part(config.part)
    if part is None:
        return scan, {}
    kept = keep_part(scan, part)
    console.info(f"part {part}: {len(kept.images):,} of {format_count(len(scan.images), 'picture')}")
    return kept, {PART_KEY: str(part), FOLDER_KEY: describe_folder(scan.images)}


def _choose_weights(config: ExtractConfig, console: Console, stored: Mapping[str, StoredState]) -> Weights:
    """Return the weights of the stores if the options allow any; otherwise find the requested ones."""
    weights = load_stored_weights(stored.values()) if config.weights == AUTO else None
    if weights is None or config.weights_sha256.strip().lower() not in ("", weights.sha256):
        weights = find_weights(config.weights, console, config.weights_sha256)
    return weights


def _compose_specs(
    config: ExtractConfig,
    places: Mapping[str, Path],
    stored: Mapping[str, StoredState],
    backbone: CutBackbone,
    policy: DecodePolicy,
) -> dict[str, FeatureSpec]:
    """Return the specification of the features of each cut; from the stores' records if possible."""
    known = {cut: load_stored_spec(config, cut, state, backbone.weights, policy) for cut, state in stored.items()}
    calibrations = {cut: model.digest for cut, model in backbone.quantized.items()}
    calibrations |= {cut: state.fingerprint.calibration for cut, state in stored.items()}
    specs = {
        cut: known.get(cut) or build_feature_spec(config, cut, backbone, policy, calibrations.get(cut, ""))
        for cut in places
    }
    # Checked before any store is created, so that a run refused for one cut creates no store for another.
    for cut, state in stored.items():
        check_fingerprint(state.path, state.fingerprint, specs[cut].fingerprint)
    return specs


def _compare_engine(run: _Run) -> None:
    """Compare the engine with plain Keras, and raise HeadstartError if their features differ."""
    differences = compare_with_keras(run.scan.images, run.config, run.backbone, run.policy)
    count = format_count(differences.shape[1], "picture")
    run.console.debug(f"difference from plain Keras, for {count}: at most {differences.max(initial=0):.2g}")


def _compare_stored_rows(run: _Run) -> None:
    """Extract some stored pictures again, and raise HeadstartError if their features differ."""
    paths = list_decodable(image.path for image in sorted(run.scan.images, key=hash_path))
    for number, (cut, place) in enumerate(run.places.items()):
        recorded, store = run.specs[cut].fingerprint, FeatureStore(place)
        made = build_feature_spec(run.config, cut, run.backbone, run.policy, recorded.calibration)
        check_fingerprint(place, recorded, made.fingerprint)
        if store.num_features:
            num_rows = compare_rows(store, paths, run.config, run.backbone, made.origin.versions, number)
            count = format_count(num_rows, "stored feature")
            run.console.debug(f"{cut}: {count} extracted again, with equal results")


def _start_engine(run: _Run, writers: Sequence[FeatureWriter]) -> None:
    """Print and build the engine, and keep its quantised models in the stores."""
    run.console.info(run.backbone.describe())
    # Built now, so that its start-up does not count in the rate of the progress bar.
    _ = run.backbone.engine
    for cut, writer in zip(run.places, writers, strict=True):
        if cut in run.backbone.quantized:
            writer.write_quantized(run.backbone.quantized[cut])


def _update_catalogs(run: _Run, writers: Sequence[FeatureWriter], plans: Sequence[Plan]) -> None:
    """Write the pictures of the scan to the catalog of each store, before the first picture is read."""
    folder = str(run.config.images.resolve())
    for writer, plan in zip(writers, plans, strict=True):
        before = writer.catalog.read_meta("images_folder")
        if before not in (None, folder) and plan.gone:
            run.console.warning(
                f"{writer.folder} was filled from {before}. Removed {format_count(len(plan.gone), 'picture')} "
                f"missing from {folder}. To keep both, give each folder its own --store"
            )
        with writer.transaction():
            writer.update_images(plan.rows, plan.gone, run.scan.label_source)
            meta = {"images_folder": folder, "weights": run.weights, **run.part_meta}
            meta |= {BITS_KEY: str(run.policy.sample_bits)} if run.has_sample_bits else {}
            for key, value in meta.items():
                writer.write_meta(key, value)


def _run_loop(run: _Run, loop: Extraction, to_read: Sequence[ImageRow]) -> BadPicturesError | None:
    """Extract pictures; return the error if too many are unusable."""
    num_images = len(run.scan.images)
    try:
        loop.run(to_read, run.config.count_bad_allowed(num_images))
    except BadPicturesError as error:
        return error
    except KeyboardInterrupt:
        num_kept = num_images - len(to_read) + min(loop.counts.num_done, len(to_read)) - len(loop.counts.failed)
        run.console.warning(
            f"{run.config.store}: {num_kept:,} of {num_images:,} pictures stored. Run again to continue"
        )
        raise
    return None


def _build_result(
    run: _Run,
    plans: Sequence[Plan],
    num_to_read: int,
    loop: Extraction,
    stopped: BadPicturesError | None,
    started: float,
) -> ExtractResult:
    num_images, counts = len(run.scan.images), loop.counts
    num_others = counts.num_computed + counts.num_duplicates + len(counts.failed)
    digests = {cut: spec.fingerprint.digest for cut, spec in run.specs.items()}
    return ExtractResult(
        store=run.config.store,
        images=num_images,
        computed=counts.num_computed,
        reused=num_images - num_to_read + counts.num_done - num_others,
        duplicates=counts.num_duplicates,
        failed=counts.failed,
        unsound=len(counts.unsound),
        unsound_images=counts.unsound,
        one_colour=len(counts.one_colour),
        one_colour_images=counts.one_colour,
        low_contrast=len(counts.low_contrast),
        low_contrast_images=counts.low_contrast,
        skipped=[asdict(skipped) for skipped in run.scan.skipped],
        ignored=dict(run.scan.ignored),
        splits=dict(run.scan.splits),
        removed=len({path for plan in plans for path in plan.gone}),
        seconds=round(time.monotonic() - started, 3),
        images_per_second=round(loop.images_per_second, 1),
        fingerprint=",".join(digests.values()),
        fingerprints=digests,
        weights=run.weights,
        labels=run.scan.labels.to_json() if run.scan.labels else None,
        relabeled=run.num_relabeled,
        sample_bits=run.policy.sample_bits,
        part=run.config.part,
        stopped=stopped,
    )
