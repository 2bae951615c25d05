"""Data of a report: every number and list that it shows, which the page also contains as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from base.files import hash_file
from base.terminal import make_json
from train_head.evaluation.neighbours import NEAR
from train_head.evaluation.uncertainty import Selection
from train_head.report.classes import has_many_classes
from train_head.report.commands import suggest_commands
from train_head.report.duplicates import Pair
from train_head.report.findings import collect_findings
from train_head.report.gallery import choose_uncertain, sort_wrong
from train_head.report.label_sets import choose_uncertain_sets, describe_set, sort_wrong_sets
from train_head.report.labels import Comparison, describe_labels
from train_head.report.outliers import describe_outliers
from train_head.report.sources import Sources, read_evaluation, read_test
from train_head.runs.record import METRICS_FILE
from train_head.runs.tables import Prediction

DATA_ID = "headstart-report"
"""Id of the page's element that holds the data: `<script type="application/json" id="headstart-report">`."""
SCHEMA_VERSION = 1
MAX_WRONG = 500
"""Largest number of incorrect predictions that a report lists; predictions.csv has all."""


def collect_report(sources: Sources, comparison: Comparison) -> dict[str, Any]:
    """Collect the data of a report, ready for JSON.

    Args:
        sources: the run and its store.
        comparison: result of `compare_pictures`.

    Returns:
        `run` (folder, classes, solver, weights, options, views), `metrics_sha256`, `metrics` (without the evaluation,
        and with more than `MAX_PLAIN_CLASSES` classes without the entries that `validation` has for each class),
        `history` (a row for each epoch), `validation` and `test` (as `evaluate` returns them; `test` is None until
        it is evaluated), `selection`, `findings` (`collect_findings`), `pictures` (training, validation and test
        pictures of each class), `wrong` (the incorrect predictions with the lowest probability of the true class, at
        most `MAX_WRONG` of `num_wrong`; see `describe_set` for several labels a picture), `uncertain`,
        `label_issues` (`describe_labels`), `outliers` (`describe_outliers`), `duplicates` and `commands`.

    Raises:
        HeadstartError: the run or the store cannot be read.
        LookupError, TypeError, ValueError: a field of the metrics is missing or invalid.
    """
    run, split = sources.run, sources.split
    metrics, history, predictions = run.read_metrics(), run.read_history(), run.read_predictions()
    if not 1 <= metrics["kept_epoch"] <= len(history):
        raise ValueError(f"kept_epoch is {metrics['kept_epoch']} of {len(history)} epochs")
    evaluation, selection = read_evaluation(run), Selection.read(metrics)
    mean_confidence = float(np.mean([found.row.max() for found in predictions], dtype=np.float64))
    findings = collect_findings(metrics, history, evaluation, selection.num_candidates, mean_confidence)
    parts = {"training": split.train, "validation": split.validation, "test": split.test}
    pictures = {name: dict(sorted(split.count_labels(part).items())) for name, part in parts.items()}
    sort, choose, describe = sort_wrong, choose_uncertain, _describe_prediction
    if run.is_multi_label:
        sort, choose, describe = sort_wrong_sets, choose_uncertain_sets, describe_set
    wrong = sort(predictions)
    left_out = {"evaluation"}
    if has_many_classes(evaluation):
        # `validation` has these too, and they would be a quarter of the page's JSON.
        left_out |= {"classes", "per_class", "confusion", "confusion_cells"}
        _add_examples(findings["confusions"], wrong)
    duplicates = comparison.duplicates
    return {
        "schema_version": SCHEMA_VERSION,
        "run": {
            "folder": sources.place.name,
            "classes": run.classes,
            "is_multi_label": run.is_multi_label,
            "solver": run.record.solver,
            "weights": run.record.weights,
            "options": run.options,
            "num_views": run.num_views,
        },
        "metrics_sha256": hash_file(run.folder / METRICS_FILE),
        "metrics": {name: value for name, value in metrics.items() if name not in left_out},
        "history": [asdict(row) for row in history],
        "validation": evaluation,
        "test": read_test(run),
        "selection": {"num_candidates": selection.num_candidates, "description": selection.describe()},
        "findings": findings,
        "pictures": pictures,
        "wrong": [describe(found) for found in wrong[:MAX_WRONG]],
        "num_wrong": len(wrong),
        "uncertain": [describe(found) for found in choose(predictions)],
        "label_issues": describe_labels(comparison.labels),
        "outliers": describe_outliers(run),
        "duplicates": {
            "exact": [_describe_pair(pair) for pair in duplicates.exact],
            "near": [_describe_pair(pair) for pair in duplicates.near],
            "num_near": duplicates.num_near,
            "limit": NEAR,
            "typical_similarity": duplicates.typical_similarity,
        },
        "commands": suggest_commands(sources, findings, pictures["training"]),
    }


def encode_data(data: Mapping[str, Any]) -> str:
    """Encode a report's data as JSON in which no text can close the surrounding script element."""
    return json.dumps(make_json(data), ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")


def _add_examples(confusions: Iterable[dict[str, Any]], wrong: Iterable[Prediction]) -> None:
    """Add the path of the first incorrect prediction of each pair of classes to its kind of error."""
    first: dict[tuple[str, str], str] = {}
    for found in wrong:
        first.setdefault((found.label, found.predicted), found.path)
    for confusion in confusions:
        confusion["example"] = first[confusion["label"], confusion["predicted"]]


def _describe_prediction(found: Prediction) -> dict[str, Any]:
    return {
        "path": found.path,
        "label": found.label,
        "predicted": found.predicted,
        "probability": found.get_probability(found.predicted),
        "label_probability": found.get_probability(found.label),
    }


def _describe_pair(pair: Pair) -> dict[str, Any]:
    return {"held_out": pair.held_out.path, "train": pair.train.path, "similarity": pair.similarity}
