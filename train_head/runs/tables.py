"""The tables of a run: its epochs, its examples, and its predictions, as CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

from features.store import Example, FeatureStore
from train_head.data.batches import Array
from train_head.data.split import Split
from train_head.evaluation.metrics import predict_classes
from train_head.solvers.history import Epoch

_HASH = re.compile(r"[0-9a-f]{64}")
SIDES = ("train", "validation")


@dataclass(frozen=True)
class RunExample:
    """An example that a run used, and on which side."""

    side: str
    label: str
    content_hash: str
    path: str
    shard: str = field(default="", compare=False)
    """The file that held its feature, for messages; empty in version 1."""


@dataclass(frozen=True)
class Prediction:
    """A head's prediction for a validation picture."""

    path: str
    label: str
    """The truth."""
    predicted: str
    probabilities: dict[str, float]
    """By class."""


def list_run_examples(split: Split, store: FeatureStore | None = None) -> list[RunExample]:
    """List what a split uses, in a fixed order.

    Args:
        split: the examples.
        store: where they are; None leaves out the shards.
    """
    names: dict[int, str] = {}
    if store:
        for example in (*split.train, *split.validation):
            if example.shard not in names:
                names[example.shard] = Path(store.describe_source(example)).name
    return [
        RunExample(side, example.label, example.content_hash.hex(), example.path, names.get(example.shard, ""))
        for side, examples in zip(SIDES, (split.train, split.validation), strict=True)
        for example in sorted(examples, key=lambda example: example.path)
    ]


def format_history(history: Sequence[Epoch]) -> bytes:
    """Format history.csv."""
    return _format([_list_names(Epoch), *map(astuple, history)])


def format_examples(examples: Sequence[RunExample]) -> bytes:
    """Format examples.csv."""
    return _format([_list_names(RunExample), *map(astuple, examples)])


def format_predictions(examples: Sequence[Example], classes: Sequence[str], probabilities: Array) -> bytes:
    """Format predictions.csv: a head's prediction for each validation picture."""
    rows = [
        [example.path, example.label, classes[number], *(f"{share:.9g}" for share in shares)]
        for example, number, shares in zip(examples, predict_classes(probabilities), probabilities, strict=True)
    ]
    return _format([["path", "label", "predicted", *(f"p({label})" for label in classes)], *rows])


def parse_history(data: bytes) -> list[Epoch]:
    """Parse history.csv; raise ValueError where it is not what `format_history` gives."""
    header, *rows = _parse(data)
    if header != _list_names(Epoch) or not rows:
        raise ValueError("other columns" if rows else "no epochs in it")
    history = [Epoch(int(row[0]), *_parse_numbers(row[1:], len(header) - 1)) for row in rows]
    if [row.epoch for row in history] != list(range(1, len(history) + 1)):
        raise ValueError("an epoch that is missing")
    if not all(row.is_finite and row.seconds >= 0 for row in history[:-1]):
        raise ValueError("a loss that is not finite before the last epoch")
    if not all(0 <= share <= 1 for row in history[:-1] for share in (row.accuracy, row.val_accuracy)):
        raise ValueError("an accuracy out of range")
    return history


def parse_examples(data: bytes, classes: Sequence[str]) -> list[RunExample]:
    """Parse examples.csv; raise ValueError where it is not what `format_examples` gives."""
    names = _list_names(RunExample)
    header, *rows = _parse(data)
    if header not in (names, names[:-1]):
        raise ValueError("other columns")
    examples = [RunExample(*_check_width(row, len(header))) for row in rows]
    for example in examples:
        if example.side not in SIDES or example.label not in classes:
            raise ValueError(f"another side or class of {example.path}")
        if not _HASH.fullmatch(example.content_hash):
            raise ValueError(f"no SHA-256 of {example.path}")
        _check_path(example.path)
    return examples


def parse_predictions(data: bytes, classes: Sequence[str]) -> list[Prediction]:
    """Parse predictions.csv; raise ValueError where it is not what `format_predictions` gives."""
    header, *rows = _parse(data)
    if header[:3] != ["path", "label", "predicted"] or len(header) != 3 + len(classes):
        raise ValueError("other columns")
    predictions = []
    for path, label, predicted, *shares in (_check_width(row, len(header)) for row in rows):
        numbers = _parse_numbers(shares, len(classes))
        if label not in classes or predicted not in classes:
            raise ValueError(f"another class of {path}")
        if not all(0 <= share <= 1 for share in numbers) or not math.isclose(sum(numbers), 1, abs_tol=1e-3):
            raise ValueError(f"probabilities of {path} out of range")
        _check_path(path)
        predictions.append(Prediction(path, label, predicted, dict(zip(classes, numbers, strict=True))))
    if not predictions:
        raise ValueError("no pictures in it")
    return predictions


def _list_names(row_type: type[Any]) -> list[str]:
    return [field.name for field in fields(row_type)]


def _format(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _parse(data: bytes) -> list[list[str]]:
    rows = list(csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline=""), strict=True))
    if not rows:
        raise ValueError("an empty file")
    return rows


def _check_width(row: list[str], width: int) -> list[str]:
    if len(row) != width:
        raise ValueError(f"a row of {len(row)} values, not {width}")
    return row


def _parse_numbers(cells: list[str], num: int) -> list[float]:
    return [float(cell) for cell in _check_width(cells, num)]


def _check_path(path: str) -> None:
    """Raise ValueError where a picture would be outside of its folder."""
    if path.startswith("/") or ".." in PurePosixPath(path).parts or "\0" in path:
        raise ValueError(f"a path out of the pictures' folder: {path}")
