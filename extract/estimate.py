"""Estimate the pictures, the time and the disk space of an extraction, without writing anything."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np

from base.terminal import Console
from extract.backbone import CutBackbone
from extract.config import ExtractConfig
from extract.plan import KnownStore, estimate_bytes, merge_images_to_read, plan_images
from extract.run import prepare_run
from extract.stores import log_labels
from extract.weights.find import Weights, WeightsName


def estimate_run(config: ExtractConfig, console: Console) -> dict[str, Any]:
    """Estimate the pictures, the time and the disk space of a run; write nothing.

    The rate is that of the last run on this store; for a new store it is measured on random pixels.
    """
    scan, places, stored = prepare_run(config, console)
    num_relabeled = log_labels(scan, stored.values(), console)
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
        "relabeled": num_relabeled,
        "labels": scan.labels.to_json() if scan.labels else None,
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
