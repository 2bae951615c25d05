"""Inputs of a report: a run, its own examples in the store that it was fitted on, and its evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from base.errors import HeadstartError, UsageError
from base.terminal import Console, format_list
from base.urls import Location, locate_pictures
from features.store import FeatureStore
from train_head.config import NO_FINE_TUNING, ReportConfig
from train_head.data.batches import Array
from train_head.data.split import Split, Targets
from train_head.evaluation.calibration import describe_calibration
from train_head.evaluation.evaluate import evaluate_head
from train_head.evaluation.metrics import find_largest_class
from train_head.evaluation.uncertainty import Selection, compute_interval, widen_mean_interval
from train_head.runs.expand import compute_store_logits, expand_head
from train_head.runs.read import Run
from train_head.runs.record import recover_run
from train_head.solvers.network import compute_probabilities

BATCH_SIZE = 256


@dataclass(frozen=True)
class Sources:
    """Inputs of a report."""

    run: Run
    store: FeatureStore
    split: Split
    images: Location
    """The folder of pictures."""
    place: Path
    """Final folder of the run; `run.folder` may be a staging folder."""


def load_sources(config: ReportConfig) -> Sources:
    """Open a run and its store.

    Raises:
        HeadstartError: the run does not exist, one of its files was changed, or the store lacks its features.
    """
    # An interrupted replacement must be completed before the run is read.
    recover_run(config.run)
    run = Run(config.run)
    run.check_files()
    store = run.open_store(config.store)
    images = locate_pictures(run.find_images(store, config.images))
    return Sources(run, store, run.find_split(store), images, run.folder.resolve())


def read_evaluation(run: Run) -> dict[str, Any]:
    """Evaluate a run's head from its stored predictions, with an interval that accounts for the selection."""
    targets, probabilities = run.read_probabilities()
    found = evaluate_head(targets, probabilities, run.record.classes, _read_train_targets(run))
    found |= describe_calibration(targets, probabilities, run.record.temperature)
    right = round(found["accuracy"] * len(targets))
    num_candidates = Selection.read(run.read_metrics()).num_candidates
    interval = list(compute_interval(right, len(targets), num_candidates))
    return found | {"accuracy_interval": interval} | widen_mean_interval(found, num_candidates)


def read_test(run: Run) -> dict[str, Any] | None:
    """Read the evaluation on the pictures in test/ from a run's metrics; None if there is none."""
    test: dict[str, Any] | None = run.read_metrics().get("test")
    if test is None or run.is_multi_label:
        return test
    largest = find_largest_class(_read_train_targets(run), len(run.classes))
    share = test["classes"][largest]["num_pictures"] / test["num_pictures"]
    return test | {"largest_class": run.record.classes[largest], "largest_class_share": share}


def evaluate_test(sources: Sources, console: Console, weights: str) -> dict[str, Any]:
    """Evaluate a run's head on the pictures in test/.

    Args:
        sources: the run and its store.
        console: receives warnings.
        weights: weights file of the backbone for a fine-tuned run; empty for the one that the store names.

    Raises:
        UsageError: test/ has no pictures.
        HeadstartError: test/ has a class that was not trained on, or the head cannot be expanded.
    """
    store, split = sources.store, sources.split
    if not split.test:
        advice = "Add class folders with pictures to test/, then extract again"
        raise UsageError("--test", "pictures in test/", f"none in {store.path}", advice)
    if unknown := sorted(split.count_labels(split.test).keys() - set(split.classes)):
        expected, advice = f"one of the classes {format_list(split.classes)}", "Remove the folder, then extract again"
        raise HeadstartError(f"test/{unknown[0]}", expected, unknown[0], advice)
    probabilities = _predict_test(sources, console, weights)
    return evaluate_head(split.encode(split.test), probabilities, split.classes, split.encode(split.train))


def _predict_test(sources: Sources, console: Console, weights: str) -> Array:
    run, store, split = sources.run, sources.store, sources.split
    if run.unfreeze_from == NO_FINE_TUNING:
        head = expand_head(run, store, split.validation, console).divide_logits(run.record.temperature)
        stored = compute_store_logits(head, store, split.test)
        return compute_probabilities(stored, is_multi_label=split.is_multi_label)
    from train_head.export.rebuild import rebuild_parts

    parts = rebuild_parts(run, store, split, weights, console)
    chunks = [split.test[start : start + BATCH_SIZE] for start in range(0, len(split.test), BATCH_SIZE)]
    logits = [parts.compute_logits(store.read(chunk).astype(np.float32)) for chunk in chunks]
    return compute_probabilities(np.concatenate(logits), is_multi_label=split.is_multi_label)


def _read_train_targets(run: Run) -> Targets:
    """Read the targets of the training pictures of a run."""
    return run.encode([example for example in run.read_examples() if example.split == "train"])
