"""Stage one's loop: from a folder of pictures to a feature store."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract import pixels
from extract.backbone import (
    BACKBONE_NAME,
    build_backbone,
    check_backbone_arguments,
    cut_backbone,
    hash_weights,
)
from extract.config import ExtractConfig
from extract.engines import tensorflow as engine
from extract.images import Scan, scan_images
from extract.plan import Plan, plan_images
from extract.reader import ImageReader, LoadedImage
from extract.weights import Weights, check_weights_argument, find_weights
from features.catalog import CATALOG_NAME, Catalog, ImageRow
from features.console import Console, import_quietly
from features.errors import HeadstartError
from features.schema import (
    FEATURE_DTYPE,
    FeatureKey,
    Fingerprint,
    ImageStatus,
    Origin,
    round_features,
)
from features.writer import FeatureWriter

MEASURED_COMPRESSION = 0.26
"""Stored bytes per byte of float16 mixed7 features."""


@dataclass(frozen=True)
class ExtractResult:
    """What a run did; what `--json` prints."""

    images: int
    computed: int
    reused: int
    failed: list[dict[str, str]]
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
    console.say(f"{config.images}: {describe_counts(scan)}")
    import_quietly("keras")
    weights = find_weights(config.weights, console)
    console.say(f"weights: {weights}")
    model = cut_backbone(build_backbone(config.image_size, weights), config.cut)
    fingerprint, origin = describe_features(config, weights, model)
    console.say(f"{describe_devices()}; {config.cut} at {config.image_size} px gives {origin.feature_shape}")
    with FeatureWriter(config.store, fingerprint, origin) as writer:
        plan = plan_images(scan.images, writer.catalog.read_images(), rehash=config.rehash)
        # A feature that went to quarantine has to be made again although the picture is unchanged.
        plan = _reread_lost(plan, writer)
        writer.sync_images(plan.rows, plan.gone)
        writer.catalog.write_meta("images_folder", str(config.images.resolve()))
        loop = _Loop(config, console, writer, engine.TensorFlowEngine(model) if plan.to_read else None)
        loop.run(plan)
        if loop.num_computed:
            writer.catalog.write_meta("images_per_second", str(loop.images_per_second))
    return ExtractResult(
        images=len(scan.images),
        computed=loop.num_computed,
        reused=len(scan.images) - loop.num_computed - len(loop.failed),
        failed=loop.failed,
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
    return scan_images(config.images)


def describe_features(config: ExtractConfig, weights: Weights, model: Any) -> tuple[Fingerprint, Origin]:
    """Writes down how features are made (fingerprint) and where from (origin)."""
    fingerprint = Fingerprint(
        backbone=BACKBONE_NAME,
        weights_sha256=hash_weights(model),
        cut=config.cut,
        image_size=config.image_size,
        decode_policy=pixels.DECODE_POLICY,
        resize=pixels.RESIZE,
        scale=pixels.SCALE,
        precision="float32",
        engine=engine.FAMILY,
        views="none",
    )
    origin = Origin(
        feature_shape=tuple(model.output.shape[1:]),
        weights_name=str(weights.name),
        weights_file=str(weights.path or ""),
        weights_file_sha256=weights.sha256,
        versions={name: _find_version(name) for name in ("tensorflow", "keras", "pillow", "h5py", "numpy")},
    )
    return fingerprint, origin


def estimate(config: ExtractConfig, scan: Scan, console: Console) -> dict[str, Any]:
    """Says what a run would do, how long it would take and how much it would store, and does nothing.

    The rate is the last run's on this store; without one it is measured on two batches of random pixels.
    """
    known: list[ImageRow] = []
    rate = 0.0
    if (config.store / CATALOG_NAME).exists():
        catalog = Catalog(config.store / CATALOG_NAME, writable=False)
        known = catalog.read_images()
        rate = float(catalog.read_meta("images_per_second") or 0)
        catalog.close()
    plan = plan_images(scan.images, known, rehash=config.rehash)
    import_quietly("keras")
    model = cut_backbone(build_backbone(config.image_size, None), config.cut)
    rate = rate or _measure_rate(config, model)
    bytes_per_row = int(np.prod(model.output.shape[1:])) * FEATURE_DTYPE.itemsize * MEASURED_COMPRESSION
    return {
        "images": len(scan.images),
        "classes": scan.count_by_class(),
        "to_read": len(plan.to_read),
        "reused": len(plan.unchanged),
        "skipped": [asdict(skipped) for skipped in scan.skipped],
        "estimated_bytes": round(len(plan.to_read) * bytes_per_row),
        "estimated_seconds": round(len(plan.to_read) / rate, 1),
        "images_per_second": round(rate, 1),
    }


def describe_counts(scan: Scan) -> str:
    """Says how many pictures there are of each class and split."""
    parts = []
    for split, counts in sorted(scan.count_by_class().items()):
        classes = ", ".join(f"{count:,} {label}" for label, count in sorted(counts.items()))
        parts.append(f"{split}: {classes}" if split else classes)
    skipped = f"; {len(scan.skipped)} other files skipped" if scan.skipped else ""
    return f"{len(scan.images):,} pictures ({'; '.join(parts)}){skipped}"


def describe_devices() -> str:
    """Says what TensorFlow runs on."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return f"running on {len(gpus)} GPU" if gpus else f"running on the CPU, {os.cpu_count()} cores"


class _Loop:
    """One pass over the pictures that have to be read."""

    def __init__(
        self,
        config: ExtractConfig,
        console: Console,
        writer: FeatureWriter,
        backbone: engine.TensorFlowEngine | None,
    ) -> None:
        self._config, self._console, self._writer, self._backbone = config, console, writer, backbone
        self.num_computed = 0
        self.images_per_second = 0.0
        self.failed: list[dict[str, str]] = []

    def run(self, plan: Plan) -> None:
        config = self._config
        threads = config.threads or os.cpu_count() or 1
        reader = ImageReader(
            config.images,
            pixels.compile_pixel_layers(config.image_size) if plan.to_read else (lambda image: image),
            _StoredHashes(self._writer),
            threads,
            num_ahead=config.batch_size * 2 + threads,
        )
        started = time.monotonic()
        with self._console.progress("extract", len(plan.to_read), "pictures") as progress:
            try:
                for batch in _group(reader.read(plan.to_read), config.batch_size):
                    self._take(batch)
                    progress.advance(len(batch))
            finally:
                # Also when interrupted: what is computed is not thrown away.
                self._writer.commit()
        self.images_per_second = self.num_computed / max(time.monotonic() - started, 1e-9)

    def _take(self, batch: list[LoadedImage]) -> None:
        new: dict[FeatureKey, Any] = {}
        for loaded in batch:
            if loaded.pixels is not None and loaded.content_hash is not None:
                key = FeatureKey(loaded.content_hash, 0)
                if not self._writer.holds(key):
                    new.setdefault(key, loaded.pixels)
        if new:
            rounded, statuses = round_features(self._compute(list(new.values())))
            self._writer.add_features(list(new), rounded, statuses)
            self.num_computed += len(new)
        for loaded in batch:
            self._record(loaded)

    def _compute(self, images: list[Any]) -> NDArray[np.float32]:
        import tensorflow as tf

        if self._backbone is None:
            raise RuntimeError("a picture to compute without an engine")
        return self._backbone.run(tf.stack(images))

    def _record(self, loaded: LoadedImage) -> None:
        if not loaded.failure:
            done = replace(loaded.image, content_hash=loaded.content_hash, status=ImageStatus.DONE)
            self._writer.add_image(done)
            return
        self.failed.append({"image": loaded.image.path, "reason": loaded.failure})
        self._writer.add_image(replace(loaded.image, status=ImageStatus.FAILED, reason=loaded.failure))
        if self._config.strict:
            raise HeadstartError(
                self._config.images / loaded.image.path,
                "a sound picture",
                loaded.failure,
                "Mend or remove it, or run without --strict",
            )


class _StoredHashes:
    """The content hashes that a writer holds, as a container for the reader."""

    def __init__(self, writer: FeatureWriter) -> None:
        self._writer = writer

    def __contains__(self, content_hash: object) -> bool:
        return isinstance(content_hash, bytes) and self._writer.holds(FeatureKey(content_hash, 0))


def _reread_lost(plan: Plan, writer: FeatureWriter) -> Plan:
    def held(row: ImageRow) -> bool:
        return row.content_hash is not None and writer.holds(FeatureKey(row.content_hash, 0))

    lost = [
        replace(row, content_hash=None, status=ImageStatus.PENDING) for row in plan.unchanged if not held(row)
    ]
    return Plan([row for row in plan.unchanged if held(row)], plan.to_read + lost, plan.gone)


def _group(items: Iterator[LoadedImage], size: int) -> Iterator[list[LoadedImage]]:
    while batch := list(islice(items, size)):
        yield batch


def _measure_rate(config: ExtractConfig, model: Any) -> float:
    import tensorflow as tf

    backbone = engine.TensorFlowEngine(model)
    batch = tf.random.uniform((config.batch_size, config.image_size, config.image_size, 3), -1, 1)
    backbone.run(batch)
    started = time.monotonic()
    for _ in range(2):
        backbone.run(batch)
    return 2 * config.batch_size / (time.monotonic() - started)


def _find_version(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"
