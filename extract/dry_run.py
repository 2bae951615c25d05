"""Says what a run of stage one would do, take and store, and does nothing."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from extract.backbone import build_backbone, cut_backbone, join_cuts
from extract.config import ExtractConfig
from extract.engines import build_engine, count_cores, plan_streams
from extract.engines.tensorflow import configure_tensorflow
from extract.images import Scan
from extract.plan import merge_catalogs, plan_images, read_incomplete
from extract.views import list_views
from features.catalog import CATALOG_NAME, Catalog
from features.console import import_quietly
from features.cuts import place_cuts
from features.schema import FEATURE_DTYPE, FeatureKey
from features.tables import ImageRow

if TYPE_CHECKING:
    import keras

MEASURED_COMPRESSION = 0.26
"""Stored bytes per byte of float16 mixed7 features."""
POOLED_COMPRESSION = 0.9
"""Of pooled ones, which are hardly ever 0."""


def estimate_run(config: ExtractConfig, scan: Scan) -> dict[str, Any]:
    """Says what a run would do, how long it would take and how much it would store, and does nothing.

    The rate is the last run's on this store; without one it is measured on two batches of random pixels.
    """
    catalogs: list[list[ImageRow]] = []
    held: list[set[FeatureKey]] = []
    rate = 0.0
    for store in place_cuts(config.store, config.cuts).values():
        if not (store / CATALOG_NAME).exists():
            catalogs.append([])
            continue
        catalog = Catalog(store / CATALOG_NAME, writable=False)
        catalogs.append(catalog.read_images())
        held.append(set(catalog.read_features()))
        rate = float(catalog.read_meta("images_per_second") or 0)
        catalog.close()
    plan = plan_images(scan.images, merge_catalogs(catalogs), rehash=config.rehash)
    plan = read_incomplete(plan, lambda key: all(key in keys for keys in held), config.views)
    import_quietly("keras")
    backbone = build_backbone(config.image_size, None)
    models = [cut_backbone(backbone, cut, config.pool) for cut in config.cuts]
    num_views = [len(list_views(row.split, config.views)) for row in plan.to_read]
    rate = rate or _measure_rate(config, join_cuts(models)) / (sum(num_views) / max(len(num_views), 1) or 1)
    return {
        "images": len(scan.images),
        "classes": scan.count_by_class(),
        "to_read": len(plan.to_read),
        "reused": len(plan.unchanged),
        "skipped": [asdict(skipped) for skipped in scan.skipped],
        "estimated_bytes": sum(estimate_bytes(sum(num_views), tuple(model.output.shape[1:])) for model in models),
        "estimated_seconds": round(len(plan.to_read) / rate, 1),
        "images_per_second": round(rate, 1),
    }


def estimate_bytes(num_rows: int, feature_shape: tuple[int, ...]) -> int:
    """Estimates what features take on disk."""
    share = MEASURED_COMPRESSION if len(feature_shape) > 1 else POOLED_COMPRESSION
    return round(num_rows * int(np.prod(feature_shape)) * FEATURE_DTYPE.itemsize * share)


def _measure_rate(config: ExtractConfig, model: keras.Model) -> float:
    streams = plan_streams(count_cores(config.threads))
    configure_tensorflow(streams)
    engine = build_engine(config.engine, config.precision, model, streams)
    shape = (config.num_at_once, config.image_size, config.image_size, 3)
    batch = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    with ThreadPoolExecutor(streams.num_streams) as pool:
        list(pool.map(engine.run, [batch] * streams.num_streams))
        started = time.monotonic()
        list(pool.map(engine.run, [batch] * streams.num_streams))
    return streams.num_streams * config.num_at_once / (time.monotonic() - started)
