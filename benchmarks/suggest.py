"""Accuracy after labelling the suggested pictures, compared with as many random ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from typer import Option

from base.command_line import run_app
from base.terminal import Console
from features.cuts import open_store
from features.validation_split import encode_labels
from train_head.data.batches import Array, Indices
from train_head.evaluation.neighbours import list_contents
from train_head.evaluation.pooled import PooledFeatures
from train_head.predict.prediction import measure_margins
from train_head.reduction.matrix import open_workers
from train_head.solvers.network import compute_logits, compute_probabilities
from train_head.solvers.ridge import Pictures, fit_ridge_head
from train_head.suggest.rank import rank_pictures

CHOICES = ("suggested", "smallest margin", "random")


@dataclass(frozen=True)
class SuggestBenchmarkConfig:
    """Options of the benchmark."""

    store: Annotated[Path, Option(help="Feature store.")]
    cut: Annotated[str, Option(help="Cut layer, if the store contains features of several.")] = ""
    labelled: Annotated[int, Option(min=10, help="Number of training pictures that have labels at first.")] = 40
    added: Annotated[int, Option(min=1, help="Number of pictures that are labelled next.")] = 40
    seeds: Annotated[int, Option(min=2, help="Number of random choices of the first pictures.")] = 20


def measure_suggestions(config: SuggestBenchmarkConfig, console: Console) -> Mapping[str, Any]:
    """Train on a few labelled pictures, label more by each rule, train again, and compare the accuracies."""
    store = open_store(config.store, config.cut)
    examples = list_contents([example for example in store.examples if example.split != "test"])
    numbers, num_classes = encode_labels(examples, store.classes), len(store.classes)
    features = PooledFeatures(store, examples).values.astype(np.float32)
    is_training = np.array([example.split == "train" for example in examples])
    if is_training.all() or not is_training.any():
        # In the order of the content hashes, which is random.
        is_training = np.arange(len(examples)) < 0.6 * len(examples)
    training, held_out = np.flatnonzero(is_training), np.flatnonzero(~is_training)
    accuracies: dict[str, list[float]] = {name: [] for name in ("before", *CHOICES)}
    with open_workers():
        for seed in range(config.seeds):
            order = np.random.default_rng(seed).permutation(training)
            first, others = order[: config.labelled], order[config.labelled :]
            predict = _fit(features[first], numbers[first], num_classes)
            margins = measure_margins(predict(features[others]))
            chosen = {
                "before": np.zeros(0, np.int64),
                "suggested": np.array(rank_pictures(margins, features[others], config.added)),
                "smallest margin": np.argsort(margins, kind="stable")[: config.added],
                "random": np.arange(config.added),
            }
            for name, rows in chosen.items():
                labelled = np.append(first, others[rows])
                predicted = _fit(features[labelled], numbers[labelled], num_classes)(features[held_out])
                accuracies[name].append(float(np.mean(predicted.argmax(axis=1) == numbers[held_out])))
    table = []
    for name, values in accuracies.items():
        gain = np.array(values) - np.array(accuracies["random"])
        half = 1.96 * gain.std(ddof=1) / math.sqrt(config.seeds)
        table.append((name, f"{np.mean(values):.4f}", f"{gain.mean():+.4f} ± {half:.4f} of random"))
    title = f"{store.path}: {config.labelled} labelled, {config.added} added, {config.seeds} seeds"
    console.show_table(title, table)
    return accuracies


def _fit(features: Array, numbers: Indices, num_classes: int) -> Callable[[Array], Array]:
    rows = np.arange(len(numbers))
    pictures = Pictures(numbers, np.ones(len(numbers), np.float32), rows, rows)
    head = fit_ridge_head(lambda: iter([features]), pictures, num_classes).weights
    return lambda others: compute_probabilities(compute_logits(head, others))


if __name__ == "__main__":
    run_app(measure_suggestions, SuggestBenchmarkConfig, "python -m benchmarks.suggest")
