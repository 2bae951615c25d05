"""Share of pictures that a run classifies as none of these, for each class folder of other stores.

Run `python -m benchmarks.outliers --run RUN STORE...`. The stores have the same cut layer, image size and pooling as
the run's, and other pictures: of other subjects, or of another camera.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from typer import Argument, Option

from base.command_line import run_app
from base.errors import HeadstartError
from base.terminal import Console, format_count
from features.cuts import open_store
from features.options import Pool
from features.store import FeatureStore
from train_head.data.batches import Array
from train_head.evaluation.curves import measure_areas
from train_head.evaluation.mahalanobis import fit_classes
from train_head.evaluation.outliers import OutlierDetector
from train_head.evaluation.uncertainty import Interval, compute_interval
from train_head.runs.read import Run

NUM_SPLITS = 20
"""Number of halves of all pictures on which the rate of false alarms is measured again."""


@dataclass(frozen=True)
class OutliersBenchmarkConfig:
    """Options of the benchmark."""

    stores: Annotated[list[Path], Argument(help="Stores of other pictures.")]
    run: Annotated[Path, Option(help="Run with a detector.")]


def open_pooled(path: Path, cut: str) -> FeatureStore:
    """Open the store of the run's last cut layer, with features of shape (channels,)."""
    store = open_store(path, cut.split(",")[-1])
    return open_store(path, cut.split(",")[-1], Pool.AVG) if len(store.feature_shape) == 3 else store


def read_detector(run: Run) -> OutlierDetector:
    """Return the detector of a run; raise HeadstartError if it has none."""
    detector = run.read_outliers()
    if detector is None:
        raise HeadstartError(run.folder, "a run with a detector", "none", "Train again with `overwrite`")
    return detector


def measure_rates(run: Run) -> Array:
    """Return the shares of false alarms on random halves of the run's pictures, fitted on the other halves."""
    store = run.open_store()
    cut, split = store.fingerprint.cut, run.find_split(store)
    detector = read_detector(run)
    pooled = open_pooled(store.path, cut)
    hashes = {example.content_hash for example in (*split.train, *split.validation)}
    examples = [example for example in pooled.examples if example.content_hash in hashes]
    features = pooled.read(examples)
    numbers = np.unique([example.label for example in examples], return_inverse=True)[1]
    rates = []
    for seed in range(NUM_SPLITS):
        half = np.random.default_rng(seed).permutation(len(examples))
        train, test = half[: len(half) // 2], half[len(half) // 2 :]
        model, held_out = fit_classes(features[train], numbers[train])
        found = OutlierDetector(model, np.sort(held_out), model.measure(features[test]), detector.false_alarms)
        rates.append(found.describe()["share_rejected"])
    return np.array(rates, np.float32)


def compare(config: OutliersBenchmarkConfig, console: Console) -> Mapping[str, Any]:
    """Print how many pictures of each folder are rejected."""
    run = Run(config.run)
    detector, cut = read_detector(run), run.open_store().fingerprint.cut
    found = detector.describe()
    rates = measure_rates(run)
    rows = {"validation": (found["num_rejected"], detector.validation)}
    for path in config.stores:
        store = open_pooled(path, cut)
        for label in store.classes:
            features = store.read([example for example in store.examples if example.label == label])
            distances = detector.model.measure(features)
            rows[f"{path.name}/{label}"] = int(np.sum(distances > found["threshold"])), distances
    results = {}
    for name, (num, distances) in rows.items():
        known = np.concatenate([np.zeros(len(detector.validation), bool), np.ones(len(distances), bool)])
        # The negative distance of a known picture is its score.
        areas = measure_areas(known, np.concatenate([detector.validation, distances]).astype(np.float64))
        results[name] = {
            "num_pictures": len(distances),
            "share_rejected": num / len(distances),
            "interval": compute_interval(num, len(distances)),
            "median": float(np.median(distances)) / found["threshold"],
            "auroc": areas.roc_auc if areas else None,
        }
    shown = [
        (
            name,
            format_count(row["num_pictures"], "picture"),
            f"rejected {row['share_rejected']:.1%} ({Interval(*row['interval']).format_percent()})",
            f"median {row['median']:.2f} of the threshold",
            f"AUROC {row['auroc']:.4f}",
        )
        for name, row in results.items()
    ]
    console.show_table(f"{config.run}, threshold {found['threshold']:,.0f}", shown)
    console.info(
        f"false alarms on {NUM_SPLITS} halves: mean {rates.mean():.4f}, from {rates.min():.4f} to {rates.max():.4f}"
    )
    return {"rows": results, "false_alarms": rates.tolist()}


if __name__ == "__main__":
    run_app(compare, OutliersBenchmarkConfig, "python -m benchmarks.outliers")
