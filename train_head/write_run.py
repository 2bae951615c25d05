"""Writes a run: aside first, and into place when it is whole."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from features.durable import hash_file
from features.store import Example
from train_head.head import Array
from train_head.metrics import predict_classes
from train_head.reduction.record import REDUCTION_FILE
from train_head.run import (
    EXAMPLES_FILE,
    HEAD_FILE,
    HISTORY_FILE,
    LOGITS_FILE,
    METRICS_FILE,
    RUN_FILE,
    RunExample,
    RunRecord,
)
from train_head.solvers import Fit
from train_head.solvers.history import Epoch


def write_run(
    folder: Path,
    record: RunRecord,
    examples: Sequence[RunExample],
    fit: Fit,
    metrics: Mapping[str, Any],
) -> None:
    """Writes the files of a run into a folder that exists and has no readers yet."""
    (folder / METRICS_FILE).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    _write_csv(folder / HISTORY_FILE, Epoch, [asdict(row) for row in fit.history])
    _write_csv(folder / EXAMPLES_FILE, RunExample, [asdict(example) for example in examples])
    fit.weights.save(folder / HEAD_FILE)
    written = replace(record, head_sha256=hash_file(folder / HEAD_FILE))
    if fit.reduction:
        written = replace(written, reduction=fit.reduction.key, rank=fit.reduction.rank)
        fit.reduction.save(folder / REDUCTION_FILE)
        np.save(folder / LOGITS_FILE, fit.reduction.validation_logits, allow_pickle=False)
    (folder / RUN_FILE).write_text(json.dumps(asdict(written), indent=2) + "\n", encoding="utf-8")


def write_predictions(path: Path, examples: Sequence[Example], classes: Sequence[str], probabilities: Array) -> None:
    """Writes what the head says of each validation picture, as CSV."""
    predicted = predict_classes(probabilities)
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "predicted", *(f"p({label})" for label in classes)])
        for example, number, row in zip(examples, predicted, probabilities, strict=True):
            writer.writerow([example.path, example.label, classes[number], *(f"{p:.9g}" for p in row)])


def move_into_place(aside: Path, folder: Path) -> None:
    """Gives a finished folder its name, in the place of an older one of that name."""
    if not folder.exists():
        aside.replace(folder)
        return
    old = aside.with_name(f"{aside.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    folder.replace(old)
    aside.replace(folder)
    shutil.rmtree(old)


def _write_csv(path: Path, row_type: type[Any], rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(row_type)])
        writer.writeheader()
        writer.writerows(rows)
