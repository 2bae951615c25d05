"""Estimate the pictures, the time and the disk space of an extraction, without writing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from base.terminal import Console
from extract.config import ExtractConfig, parse_part
from extract.parts import keep_part
from extract.plan import KnownStore, estimate_bytes, merge_images_to_read, plan_images
from extract.prepare import prepare_run
from extract.shapes import compute_feature_shape
from extract.stores import StoredState, log_label_changes


def estimate_run(config: ExtractConfig, console: Console) -> dict[str, Any]:
    """Estimate the pictures, the time and the disk space of a run, without the backbone; write nothing.

    The rate is that of the last run on this store. Without one, `estimated_seconds` and `images_per_second` are None.
    `estimated_bytes` is None if the shape of a layer is unknown: it is no `mixed` layer, and the store has no features.
    """
    config, scan, places, stored = prepare_run(config, console)
    num_relabeled = log_label_changes(scan, stored.values(), console)
    classes, scan = scan.count_by_class(), keep_part(scan, parse_part(config.part))
    known = [stored[cut].known if cut in stored else KnownStore() for cut in places]
    plans = [plan_images(scan.images, store, config.views, rehash=config.rehash) for store in known]
    num_to_read, num_rows = len(merge_images_to_read(plans)), [plan.num_missing for plan in plans]
    rate = _find_rate(stored)
    seconds = 0.0 if not num_to_read else max(num_rows) / rate if rate else None
    return {
        "images": len(scan.images),
        "classes": classes,
        "part": config.part,
        "relabeled": num_relabeled,
        "labels": scan.labels.to_json() if scan.labels else None,
        "splits": dict(scan.splits),
        "to_read": num_to_read,
        "reused": len(scan.images) - num_to_read,
        "skipped": [asdict(skipped) for skipped in scan.skipped],
        "ignored": dict(scan.ignored),
        "estimated_bytes": _estimate_total(config, stored, num_rows),
        "estimated_seconds": None if seconds is None else round(seconds, 1),
        "images_per_second": None if seconds is None else round(num_to_read / seconds, 1) if seconds else 0.0,
    }


def _find_rate(stored: Mapping[str, StoredState]) -> float | None:
    """Return the lowest rate that the stores recorded, in views per second; None if they recorded none."""
    found = [state.meta.get("rows_per_second") or state.meta.get("images_per_second") for state in stored.values()]
    return min((float(rate) for rate in found if rate and float(rate)), default=None)


def _estimate_total(config: ExtractConfig, stored: Mapping[str, StoredState], num_rows: Sequence[int]) -> int | None:
    """Estimate the size on disk of new features, in bytes."""
    total = 0
    for cut, num_missing in zip(config.cuts, num_rows, strict=True):
        shape = stored[cut].origin.feature_shape if cut in stored else None
        shape = shape or compute_feature_shape(cut, config.image_size, config.pool)
        if shape is None:
            return None
        total += estimate_bytes(num_missing, shape)
    return total
