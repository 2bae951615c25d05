"""Precision and recall of the list of wrong labels, with labels of a store that are flipped at random."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from typer import Option

from base.command_line import run_app
from base.terminal import Console
from features.cuts import open_store
from features.validation_split import encode_labels
from train_head.evaluation.label_check import compute_scores
from train_head.evaluation.neighbours import list_contents
from train_head.evaluation.pooled import PooledFeatures


@dataclass(frozen=True)
class LabelIssuesBenchmarkConfig:
    """Options of the benchmark."""

    store: Annotated[Path, Option(help="Feature store whose labels are correct.")]
    cut: Annotated[str, Option(help="Cut layer, if the store contains features of several.")] = ""
    share: Annotated[float, Option(min=0.001, max=0.4, help="Share of the labels to flip.")] = 0.05
    seeds: Annotated[int, Option(min=1, help="Number of random choices of the flipped labels.")] = 3


def measure_label_issues(config: LabelIssuesBenchmarkConfig, console: Console) -> Mapping[str, Any]:
    """Flip labels at random, and compare the list of contradicted labels with the flipped ones."""
    store = open_store(config.store, config.cut)
    examples = list_contents([example for example in store.examples if example.split != "test"])
    truth, num_classes = encode_labels(examples, store.classes), len(store.classes)
    pooled = PooledFeatures(store, examples)
    num_listed = int(np.sum(compute_scores(pooled, truth, num_classes).suggested >= 0))
    found = []
    for seed in range(config.seeds):
        rng = np.random.default_rng(seed)
        flipped = np.zeros(len(truth), bool)
        flipped[rng.permutation(len(truth))[: round(config.share * len(truth))]] = True
        numbers = np.where(flipped, (truth + rng.integers(1, num_classes, len(truth))) % num_classes, truth)
        started = time.monotonic()
        listed = compute_scores(pooled, numbers, num_classes).suggested >= 0
        seconds = time.monotonic() - started
        num_right = int(np.sum(listed & flipped))
        found.append((num_right / max(int(listed.sum()), 1), num_right / int(flipped.sum()), seconds))
    names = ("precision", "recall", "seconds")
    columns = dict(zip(names, np.array(found).T, strict=True))
    rows = [
        (name, f"mean {values.mean():.3f}", f"from {values.min():.3f} to {values.max():.3f}")
        for name, values in columns.items()
    ]
    title = f"{len(truth):,} pictures of {store.path}, {config.share:.0%} flipped, {config.seeds} seeds"
    console.show_table(title, [*rows, ("listed without flipped labels", f"{num_listed:,}")])
    return {"num_listed_unflipped": num_listed} | {name: values.tolist() for name, values in columns.items()}


if __name__ == "__main__":
    run_app(measure_label_issues, LabelIssuesBenchmarkConfig, "python -m benchmarks.label_issues")
