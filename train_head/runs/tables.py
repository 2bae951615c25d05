"""CSV tables of a run: history, examples and predictions."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path, PurePosixPath

from features.store import Example, FeatureStore
from train_head.data.batches import Array
from train_head.data.split import Split
from train_head.evaluation.metrics import predict_classes
from train_head.solvers.history import Epoch

SPLITS = ("train", "validation")
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class RunExample:
    """Example that a run was trained or validated on."""

    split: str
    """`train` or `validation`; the column `side` of examples.csv."""
    label: str
    content_hash: str
    path: str
    shard: str = field(default="", compare=False)
    """Name of the file that held the feature, for messages; empty in version 1."""


@dataclass(frozen=True)
class Prediction:
    """Prediction for one validation picture."""

    path: str
    label: str
    """True class."""
    predicted: str
    probabilities: dict[str, float]
    """Probability of each class, with labels as keys."""


_EPOCH_COLUMNS = [field.name for field in fields(Epoch)]
_EXAMPLE_COLUMNS = ["side", "label", "content_hash", "path", "shard"]
_PREDICTION_COLUMNS = ["path", "label", "predicted"]


def list_run_examples(split: Split, store: FeatureStore | None = None) -> list[RunExample]:
    """List the examples of a split, sorted by path; include the names of their shards if a store is given."""
    held_by = {example.shard: example for example in (*split.train, *split.validation)} if store else {}
    names = {shard: Path(store.describe_source(example)).name for shard, example in held_by.items() if store}
    return [
        RunExample(name, example.label, example.content_hash.hex(), example.path, names.get(example.shard, ""))
        for name, examples in zip(SPLITS, (split.train, split.validation), strict=True)
        for example in sorted(examples, key=lambda example: example.path)
    ]


def format_history(history: Sequence[Epoch]) -> bytes:
    """Format history.csv."""
    return _format([_EPOCH_COLUMNS, *map(astuple, history)])


def format_examples(examples: Sequence[RunExample]) -> bytes:
    """Format examples.csv."""
    return _format([_EXAMPLE_COLUMNS, *map(astuple, examples)])


def format_predictions(examples: Sequence[Example], classes: Sequence[str], probabilities: Array) -> bytes:
    """Format predictions.csv from the probabilities, (n, classes), of the validation pictures."""
    rows = [
        [example.path, example.label, classes[number], *(f"{share:.9g}" for share in shares)]
        for example, number, shares in zip(examples, predict_classes(probabilities), probabilities, strict=True)
    ]
    return _format([[*_PREDICTION_COLUMNS, *(f"p({label})" for label in classes)], *rows])


def parse_history(data: bytes) -> list[Epoch]:
    """Parse the output of `format_history`; raise ValueError if it is invalid."""
    history = [Epoch(int(epoch), *map(float, values)) for epoch, *values in _parse(data, _EPOCH_COLUMNS)]
    if not history or [row.epoch for row in history] != list(range(1, len(history) + 1)):
        raise ValueError("a missing epoch")
    for row in history[:-1]:
        if not row.is_finite or row.seconds < 0 or not 0 <= row.accuracy <= 1 or not 0 <= row.val_accuracy <= 1:
            raise ValueError(f"a value of epoch {row.epoch} out of range")
    return history


def parse_examples(data: bytes, classes: Sequence[str]) -> list[RunExample]:
    """Parse the output of `format_examples`; raise ValueError if it is invalid."""
    examples = [RunExample(*row) for row in _parse(data, _EXAMPLE_COLUMNS, _EXAMPLE_COLUMNS[:-1])]
    for example in examples:
        if example.split not in SPLITS or example.label not in classes:
            raise ValueError(f"an unknown split or class for {example.path}")
        if not _HASH.fullmatch(example.content_hash):
            raise ValueError(f"an invalid SHA-256 for {example.path}")
        _check_path(example.path)
    return examples


def parse_predictions(data: bytes, classes: Sequence[str]) -> list[Prediction]:
    """Parse the output of `format_predictions`; raise ValueError if it is invalid."""
    predictions = []
    for path, label, predicted, *shares in _parse(data, [*_PREDICTION_COLUMNS, *(f"p({label})" for label in classes)]):
        numbers = [float(share) for share in shares]
        if label not in classes or predicted not in classes:
            raise ValueError(f"an unknown class for {path}")
        if not all(0 <= share <= 1 for share in numbers) or not math.isclose(sum(numbers), 1, abs_tol=1e-3):
            raise ValueError(f"invalid probabilities for {path}")
        _check_path(path)
        predictions.append(Prediction(path, label, predicted, dict(zip(classes, numbers, strict=True))))
    if not predictions:
        raise ValueError("no pictures")
    return predictions


def _format(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _parse(data: bytes, *headers: list[str]) -> list[list[str]]:
    """Return the rows below the header, which must equal one of `headers`."""
    rows = list(csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline=""), strict=True))
    if not rows or rows[0] not in headers:
        raise ValueError("unknown columns")
    if any(len(row) != len(rows[0]) for row in rows):
        raise ValueError(f"a row that does not have {len(rows[0])} values")
    return rows[1:]


def _check_path(path: str) -> None:
    """Raise ValueError if a path points outside the folder of the pictures."""
    if path.startswith("/") or ".." in PurePosixPath(path).parts or "\0" in path:
        raise ValueError(f"a path outside the folder of the pictures: {path}")
