"""Stage one's loop: from a folder of pictures to a feature store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from base.errors import HeadstartError
from base.files import require_space
from base.terminal import Console, import_quietly
from extract.backbone import build_backbone, check_backbone_arguments, cut_backbone, join_cuts
from extract.canary import Canary
from extract.config import EngineName, ExtractConfig, Precision
from extract.decode import Pixels
from extract.dry_run import estimate_bytes
from extract.engines import Engine, build_engine, check_engine, count_cores, plan_streams, refuse_float32
from extract.identity import Description, describe_features, recall_features, recall_weights
from extract.images.scan import Scan, scan_images
from extract.loop import BadPicturesError, ExtractionLoop
from extract.plan import KnownStore, Plan, count_missing, merge_reading, plan_images, plan_stores
from extract.store_checks import place_stores, refuse_other_folder, set_aside
from extract.views import Prepared, compile_views
from extract.weights.find import AUTO, Weights, check_weights_argument, find_weights, reopen_weights
from features.store import FeatureStore
from features.writer import FeatureWriter, refuse_other_fingerprint, refuse_stored_fingerprint

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class ExtractResult:
    """What a run did; what `--json` prints."""

    images: int
    computed: int
    reused: int
    """Pictures whose features were stored before."""
    duplicates: int
    """Copies, byte for byte, of pictures that were computed."""
    failed: list[dict[str, str]]
    """Each bad picture that the run came to, and why."""
    unsound: int
    """Pictures of which a feature has NaN, infinity or a value beyond float16; stored, and never trained on."""
    unsound_images: list[str]
    """Their paths."""
    skipped: list[dict[str, str]]
    removed: int
    seconds: float
    images_per_second: float
    fingerprint: str
    """Of several cuts comma-separated."""
    fingerprints: dict[str, str]
    """By cut."""
    weights: str
    error: str
    """Why the run stopped before its end; empty where it did not."""


def extract_features(config: ExtractConfig, console: Console) -> ExtractResult:
    """Brings a store up to date with a folder: computes what is new, forgets what is gone.

    Args:
        config: what, from where, to where.
        console: where progress goes.

    Returns:
        What was done, also where too many bad pictures ended it.

    Raises:
        HeadstartError: anything that a user can mend; what was committed stays.
    """
    started = time.monotonic()
    scan = check_arguments(config)
    stores = place_stores(config.store, config.cuts, is_new=config.new_store)
    console.say(f"{config.images}: {scan.describe()}")
    weights = _choose_weights(config, console, stores.values())
    console.say(f"weights: {weights}")
    backbone = _Backbone(config, weights, console)
    recalled = {
        cut: None if config.new_store else recall_features(config, cut, store, weights) for cut, store in stores.items()
    }
    described = {cut: found or backbone.describe(cut) for cut, found in recalled.items()}
    if config.new_store:
        if aside := set_aside(config.store):
            console.say(f"{config.store}: a new store; the one that was there is {aside}")
    else:
        for cut, store in stores.items():
            # Before any store is made: a run that is refused for one leaves nothing of the others.
            refuse_stored_fingerprint(store, described[cut].fingerprint)
            refuse_other_folder(store, config.images, scan)
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                FeatureWriter(store, described[cut].fingerprint, described[cut].origin, compression=config.compression)
            )
            for cut, store in stores.items()
        ]
        for note in [note for writer in writers for note in writer.notes]:
            console.warn(note)
        known = [KnownStore(writer.catalog.read_images(), writer.holds) for writer in writers]
        plans = plan_stores(scan.images, known, config.views, rehash=config.rehash)
        to_read = merge_reading(plans)
        loop = ExtractionLoop(config, console, writers, backbone)
        waiting = {row.path for row in to_read}
        for row in {row.path: row for plan in plans for row in plan.unchanged if row.path not in waiting}.values():
            loop.note_unsound(row, row.content_hash or b"")
        if to_read:
            for cut, store in stores.items():
                refuse_other_fingerprint(store, described[cut].fingerprint, backbone.describe(cut).fingerprint)
            shapes = [description.origin.feature_shape for description in described.values()]
            num_rows = [
                count_missing(plan, store.holds, config.views) for plan, store in zip(plans, known, strict=True)
            ]
            require_space(writers[0].folder, sum(map(estimate_bytes, num_rows, shapes)))
            _compare_canaries(config, console, backbone, scan, stores)
            console.say(backbone.describe_work(shapes))
            # Built here, so that the progress bar does not take it for slow pictures.
            _ = backbone.engine
        for writer, plan in zip(writers, plans, strict=True):
            _warn_of_other_folder(config, console, writer, plan)
            writer.sync_images(plan.rows, plan.gone)
            writer.write_meta("images_folder", str(config.images.resolve()))
            writer.write_meta("weights", str(weights))
        error = ""
        try:
            loop.run(to_read, config.count_bad_allowed(len(scan.images)))
        except BadPicturesError as stopped:
            error = str(stopped)
        except KeyboardInterrupt:
            num_kept = len(scan.images) - len(to_read) + loop.num_done - len(loop.failed)
            console.warn(f"{config.store}: {num_kept:,} of {len(scan.images):,} pictures are extracted, and kept")
            raise
        if loop.num_computed:
            for writer in writers:
                writer.write_meta("images_per_second", str(loop.images_per_second))
                writer.write_meta("rows_per_second", str(loop.rows_per_second))
    num_others = loop.num_duplicates + len(loop.failed)
    return ExtractResult(
        images=len(scan.images),
        computed=loop.num_computed,
        reused=len(scan.images) - len(to_read) + loop.num_done - loop.num_computed - num_others,
        duplicates=loop.num_duplicates,
        failed=loop.failed,
        unsound=len(loop.unsound),
        unsound_images=loop.unsound,
        skipped=[asdict(skipped) for skipped in scan.skipped],
        removed=len({path for plan in plans for path in plan.gone}),
        seconds=round(time.monotonic() - started, 3),
        images_per_second=round(loop.images_per_second, 1),
        fingerprint=",".join(description.fingerprint.digest for description in described.values()),
        fingerprints={cut: description.fingerprint.digest for cut, description in described.items()},
        weights=str(weights),
        error=error,
    )


def check_arguments(config: ExtractConfig) -> Scan:
    """Checks everything that can be checked without TensorFlow, and scans the folder."""
    check_backbone_arguments(config.cuts, config.image_size)
    check_weights_argument(config.weights)
    check_engine(config.engine, config.precision)
    return scan_images(config.images, place_stores(config.store, config.cuts, is_new=config.new_store).values())


def _choose_weights(config: ExtractConfig, console: Console, stores: Iterable[Path]) -> Weights:
    """Chooses the weights: for `auto` the store's own, where it has features."""
    if config.weights == AUTO and not config.new_store:
        own = recall_weights(stores)
        if own and config.weights_sha256.strip().lower() in ("", own.sha256):
            return own
    return find_weights(config.weights, console, config.weights_sha256)


def _warn_of_other_folder(config: ExtractConfig, console: Console, writer: FeatureWriter, plan: Plan) -> None:
    before, now = writer.catalog.read_meta("images_folder"), str(config.images.resolve())
    if before not in (None, now) and plan.gone:
        console.warn(
            f"{writer.folder} was filled from {before}; {len(plan.gone):,} of its pictures are not in {now} and leave "
            "the training set. Give each folder a --store (STORE=) of its own to keep both"
        )


def _compare_canaries(
    config: ExtractConfig, console: Console, backbone: _Backbone, scan: Scan, stores: Mapping[str, Path]
) -> None:
    paths = [image.path for image in scan.images]
    others = [row.path for row in plan_images(scan.images, [], rehash=False).to_read]
    for number, (cut, folder) in enumerate(stores.items()):
        store = FeatureStore(folder)
        if not store.num_features:
            continue
        versions = backbone.describe(cut).origin.versions
        canary = Canary(config.images, backbone.prepare, partial(backbone.run_cut, number), versions, config.max_pixels)
        num_rows = canary.compare(store, paths, others)
        console.detail(f"{num_rows} stored features of {cut} were extracted again and are the same")


class _Backbone:
    """The cut backbone, built when it is first needed."""

    def __init__(self, config: ExtractConfig, weights: Weights, console: Console) -> None:
        self._config, self._weights, self._console = config, weights, console
        self.streams = plan_streams(count_cores(config.threads))

    @cached_property
    def _models(self) -> dict[str, keras.Model]:
        config = self._config
        self._weights = reopen_weights(self._weights, self._console)
        import_quietly("keras")
        from extract.engines.tensorflow import configure_tensorflow

        if not configure_tensorflow(self.streams):
            self._console.detail("TensorFlow has computed in this process already, and keeps its threads")
        backbone = build_backbone(config.image_size, self._weights)
        return {cut: cut_backbone(backbone, cut, config.pool) for cut in config.cuts}

    @cached_property
    def engine(self) -> Engine:
        config = self._config
        model = join_cuts(list(self._models.values()))
        engine = build_engine(config.engine, config.precision, model, self.streams)
        picture = np.random.default_rng(0).uniform(-1, 1, (1, config.image_size, config.image_size, 3))
        # The first batch takes two seconds, whatever its size: kernels are chosen, and weights laid out for them.
        found = engine.run(picture.astype(np.float32))
        if config.precision is Precision.BFLOAT16:
            refuse_float32(found, model(picture.astype(np.float32), training=False))
        return engine

    @cached_property
    def prepare(self) -> Callable[[Pixels, bytes, Iterable[int]], Prepared]:
        return compile_views(self._config.image_size, self._config.view_seed)

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Runs the backbone on prepared pictures, no more at once than memory is meant for.

        Raises:
            HeadstartError: the engine failed.
        """
        size = self._config.num_at_once
        try:
            parts = [self.engine.run(batch[start : start + size]) for start in range(0, len(batch), size)]
        except HeadstartError:
            raise
        except Exception as error:
            # TensorFlow, OpenVINO and drivers raise kinds of their own; most of them mean that memory is short.
            raise HeadstartError(
                f"--engine {self._config.engine}",
                f"to run {min(size, len(batch))} pictures of {self._config.image_size} px",
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
                "Try a smaller --batch-size, or fewer --threads",
            ) from error
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    def run_cut(self, number: int, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Runs the backbone, for the features of one cut."""
        return self.run(batch)[number]

    def describe(self, cut: str) -> Description:
        """Describes the features of a cut."""
        return describe_features(self._config, cut, self._weights, self._models[cut])

    def describe_work(self, shapes: Sequence[Sequence[int]]) -> str:
        """Says what runs where, and what comes out."""
        from extract.engines.tensorflow import describe_devices

        config = self._config
        device = describe_devices() if config.engine is EngineName.TENSORFLOW else "the CPU"
        sizes = ", ".join(
            f"{cut} is {' x '.join(map(str, shape))}" for cut, shape in zip(config.cuts, shapes, strict=True)
        )
        return (
            f"running {config.engine} in {config.precision} on {device}, {self.streams.num_cores} cores; "
            f"at {config.image_size} px {sizes}"
        )
