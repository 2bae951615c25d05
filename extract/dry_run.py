"""Says what a run of stage one would do, take and store, and does nothing."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from base.terminal import import_quietly
from extract.backbone import build_backbone, cut_backbone, join_cuts
from extract.config import ExtractConfig
from extract.engines import build_engine, count_cores, plan_streams
from extract.engines.tensorflow import configure_tensorflow
from extract.identity import open_catalog, recall_features
from extract.images.scan import Scan
from extract.plan import KnownStore, count_missing, merge_reading, plan_stores
from extract.store_checks import place_stores, refuse_other_folder
from features.schema import FEATURE_DTYPE

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
    stores, rates = [], []
    for cut, folder in place_stores(config.store, config.cuts, is_new=config.new_store).items():
        if config.new_store:
            stores.append(KnownStore([], lambda _: False))
            continue
        recall_features(config, cut, folder, None)
        refuse_other_folder(folder, config.images, scan)
        store, rate = _read_catalog(folder)
        stores.append(store)
        rates += [rate] if rate else []
    plans = plan_stores(scan.images, stores, config.views, rehash=config.rehash)
    import_quietly("keras")
    backbone = build_backbone(config.image_size, None)
    models = [cut_backbone(backbone, cut, config.pool) for cut in config.cuts]
    num_rows = [count_missing(plan, store.holds, config.views) for plan, store in zip(plans, stores, strict=True)]
    shapes = [tuple(model.output.shape[1:]) for model in models]
    num_to_read = len(merge_reading(plans))
    seconds = max(num_rows) / (min(rates) if rates else _measure_rate(config, join_cuts(models)))
    return {
        "images": len(scan.images),
        "classes": scan.count_by_class(),
        "to_read": num_to_read,
        "reused": len(scan.images) - num_to_read,
        "skipped": [asdict(skipped) for skipped in scan.skipped],
        "estimated_bytes": sum(map(estimate_bytes, num_rows, shapes)),
        "estimated_seconds": round(seconds, 1),
        "images_per_second": round(num_to_read / seconds, 1) if seconds else 0.0,
    }


def _read_catalog(store: Path) -> tuple[KnownStore, float]:
    """Reads what a store knows, and how many features a second it was last given; 0 where there is none."""
    catalog = open_catalog(store)
    if catalog is None:
        return KnownStore([], lambda _: False), 0.0
    with closing(catalog):
        rate = catalog.read_meta("rows_per_second") or catalog.read_meta("images_per_second") or 0
        return KnownStore(catalog.read_images(), frozenset(catalog.read_features()).__contains__), float(rate)


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
