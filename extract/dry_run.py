"""Says what a run of stage one would do, take and store, and does nothing."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from extract.backbone import build_backbone, cut_backbone
from extract.config import ExtractConfig
from extract.engines import tensorflow as engine
from extract.images import Scan
from extract.plan import plan_images
from features.catalog import CATALOG_NAME, Catalog
from features.console import import_quietly
from features.schema import FEATURE_DTYPE
from features.tables import ImageRow

if TYPE_CHECKING:
    import keras

MEASURED_COMPRESSION = 0.26
"""Stored bytes per byte of float16 mixed7 features."""


def estimate_run(config: ExtractConfig, scan: Scan) -> dict[str, Any]:
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
    return {
        "images": len(scan.images),
        "classes": scan.count_by_class(),
        "to_read": len(plan.to_read),
        "reused": len(plan.unchanged),
        "skipped": [asdict(skipped) for skipped in scan.skipped],
        "estimated_bytes": estimate_bytes(len(plan.to_read), tuple(model.output.shape[1:])),
        "estimated_seconds": round(len(plan.to_read) / rate, 1),
        "images_per_second": round(rate, 1),
    }


def estimate_bytes(num_rows: int, feature_shape: tuple[int, ...]) -> int:
    """Estimates what features take on disk."""
    return round(num_rows * int(np.prod(feature_shape)) * FEATURE_DTYPE.itemsize * MEASURED_COMPRESSION)


def _measure_rate(config: ExtractConfig, model: keras.Model) -> float:
    import tensorflow as tf

    backbone = engine.TensorFlowEngine(model)
    batch = tf.random.uniform((config.batch_size, config.image_size, config.image_size, 3), -1, 1)
    backbone.run(batch)
    started = time.monotonic()
    for _ in range(2):
        backbone.run(batch)
    return 2 * config.batch_size / (time.monotonic() - started)
