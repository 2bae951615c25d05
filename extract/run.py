"""Stage one's loop: from a folder of pictures to a feature store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from extract import pixels
from extract.backbone import build_backbone, check_backbone_arguments, cut_backbone
from extract.canary import Canary
from extract.config import ExtractConfig
from extract.dry_run import estimate_bytes
from extract.engines.tensorflow import TensorFlowEngine
from extract.identity import describe_features, recall_features
from extract.images import Scan, scan_images
from extract.loop import ExtractionLoop
from extract.plan import Plan, plan_images
from extract.weights import Weights, check_weights_argument, find_weights
from features.console import Console, import_quietly
from features.durable import require_space
from features.schema import FeatureKey, Fingerprint, ImageStatus, Origin
from features.store import FeatureStore
from features.tables import ImageRow
from features.writer import FeatureWriter, refuse_foreign_folder, refuse_other_fingerprint

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class ExtractResult:
    """What a run did; what `--json` prints."""

    images: int
    computed: int
    reused: int
    failed: list[dict[str, str]]
    unsound: int
    """New features with NaN, infinity or a value beyond float16; stored, and never trained on."""
    skipped: list[dict[str, str]]
    removed: int
    seconds: float
    images_per_second: float
    fingerprint: str
    weights: str


def extract_features(config: ExtractConfig, console: Console) -> ExtractResult:
    """Brings a store up to date with a folder: computes what is new, forgets what is gone.

    Args:
        config: what, from where, to where.
        console: where progress goes.

    Returns:
        What was done. Bad pictures are in `failed`, all of them, each once.

    Raises:
        HeadstartError: anything that a user can mend; what was committed stays.
    """
    started = time.monotonic()
    scan = check_arguments(config)
    console.say(f"{config.images}: {scan.describe()}")
    weights = find_weights(config.weights, console)
    console.say(f"weights: {weights}")
    backbone = _Backbone(config, weights)
    fingerprint, origin = recall_features(config, weights) or backbone.description
    with FeatureWriter(config.store, fingerprint, origin, compression=config.compression) as writer:
        for note in writer.notes:
            console.warn(note)
        known = writer.catalog.read_images()
        plan = _reread_lost(plan_images(scan.images, known, rehash=config.rehash), writer)
        loop = ExtractionLoop(config, console, writer, backbone)
        if plan.to_read:
            refuse_other_fingerprint(config.store, fingerprint, backbone.description[0])
            require_space(config.store, estimate_bytes(len(plan.to_read), origin.feature_shape))
            _compare_canary(config, console, backbone, plan)
        _warn_of_other_folder(config, console, writer, plan)
        writer.sync_images(plan.rows, plan.gone)
        writer.write_meta("images_folder", str(config.images.resolve()))
        if plan.to_read:
            shape = " x ".join(map(str, origin.feature_shape))
            console.say(f"{describe_devices()}; {config.cut} at {config.image_size} px is {shape}")
            loop.run(plan.to_read)
        if loop.num_computed:
            writer.write_meta("images_per_second", str(loop.images_per_second))
    return ExtractResult(
        images=len(scan.images),
        computed=loop.num_computed,
        reused=len(scan.images) - loop.num_computed - len(loop.failed),
        failed=loop.failed,
        unsound=loop.num_unsound,
        skipped=[asdict(skipped) for skipped in scan.skipped],
        removed=len(plan.gone),
        seconds=round(time.monotonic() - started, 3),
        images_per_second=round(loop.images_per_second, 1),
        fingerprint=fingerprint.digest,
        weights=str(weights),
    )


def check_arguments(config: ExtractConfig) -> Scan:
    """Checks everything that can be checked without TensorFlow, and scans the folder."""
    check_backbone_arguments(config.cut, config.image_size)
    check_weights_argument(config.weights)
    refuse_foreign_folder(config.store)
    return scan_images(config.images)


def _warn_of_other_folder(config: ExtractConfig, console: Console, writer: FeatureWriter, plan: Plan) -> None:
    before, now = writer.catalog.read_meta("images_folder"), str(config.images.resolve())
    if before not in (None, now) and plan.gone:
        console.warn(
            f"{config.store} was filled from {before}; {len(plan.gone):,} of its pictures are not in {now} and leave "
            "the training set. Give each folder a --store (STORE=) of its own to keep both"
        )


def _compare_canary(config: ExtractConfig, console: Console, backbone: _Backbone, plan: Plan) -> None:
    store = FeatureStore(config.store)
    canary = Canary(config.images, backbone.prepare, backbone.run, backbone.description[1].versions)
    if store.examples and plan.unchanged:
        num_rows = canary.compare(store, [row.path for row in plan.unchanged])
        console.detail(f"{num_rows} stored features were extracted again and are the same")


def describe_devices() -> str:
    """Says what TensorFlow runs on."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return f"running on {len(gpus)} GPU" if gpus else f"running on the CPU, {os.cpu_count()} cores"


class _Backbone:
    """The cut backbone, built when it is first needed."""

    def __init__(self, config: ExtractConfig, weights: Weights) -> None:
        self._config, self._weights = config, weights

    @cached_property
    def _model(self) -> keras.Model:
        import_quietly("keras")
        return cut_backbone(build_backbone(self._config.image_size, self._weights), self._config.cut)

    @cached_property
    def _engine(self) -> TensorFlowEngine:
        return TensorFlowEngine(self._model)

    @cached_property
    def prepare(self) -> Callable[[pixels.Pixels], Any]:
        return pixels.compile_pixel_layers(self._config.image_size)

    def run(self, images: list[Any]) -> NDArray[np.float32]:
        """Runs the backbone on prepared pictures."""
        import tensorflow as tf

        return self._engine.run(tf.stack(images))

    @cached_property
    def description(self) -> tuple[Fingerprint, Origin]:
        return describe_features(self._config, self._weights, self._model)


def _reread_lost(plan: Plan, writer: FeatureWriter) -> Plan:
    def held(row: ImageRow) -> bool:
        return row.content_hash is not None and writer.holds(FeatureKey(row.content_hash, 0))

    lost = [row._replace(content_hash=None, status=ImageStatus.PENDING) for row in plan.unchanged if not held(row)]
    return Plan([row for row in plan.unchanged if held(row)], plan.to_read + lost, plan.gone)
