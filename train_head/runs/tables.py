"""CSV tables of a run: history, examples and predictions."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field, fields
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.labels import join_labels, split_labels
from features.store import Example, FeatureStore
from train_head.data.batches import Array
from train_head.data.split import Split
from train_head.evaluation.confusion import MAX_DENSE_CLASSES
from train_head.evaluation.metrics import LABEL_THRESHOLD, predict_classes
from train_head.solvers.history import Epoch

SPLITS = ("train", "validation")
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RunExample:
    """Example that a run was trained or validated on."""

    split: str
    """`train` or `validation`; the column `side` of examples.csv."""
    label: str
    """Label; the joined labels, if pictures have several."""
    content_hash: str
    path: str
    shard: str = field(default="", compare=False)
    """Name of the file that held the feature, for messages; empty in version 1."""


@dataclass(frozen=True)
class Prediction:
    """Prediction for one validation picture."""

    path: str
    label: str
    """True class; the joined labels, if pictures have several."""
    predicted: str
    """Predicted class, or the joined predicted labels."""
    classes: Sequence[str] = field(repr=False)
    """Labels, in the order of `row`."""
    row: NDArray[np.floating[Any]] = field(repr=False, compare=False)
    """(classes,) probability of each class."""

    @property
    def probabilities(self) -> dict[str, float]:
        """Probability of each class, with labels as keys."""
        return dict(zip(self.classes, self.row.tolist(), strict=True))

    def get_probability(self, label: str) -> float:
        """Return the probability of one class."""
        return float(self.row[self.classes.index(label)])


_EPOCH_COLUMNS = [field.name for field in fields(Epoch)]
_EXAMPLE_COLUMNS = ["side", "label", "content_hash", "path", "shard"]
_PREDICTION_COLUMNS = ["path", "label", "predicted"]
_SHARE_COLUMNS = ["probability", "label_probability"]


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
    return format_csv([_EPOCH_COLUMNS, *map(astuple, history)])


def format_examples(examples: Sequence[RunExample]) -> bytes:
    """Format examples.csv."""
    rows = ((each.split, each.label, each.content_hash, each.path, each.shard) for each in examples)
    return format_csv(chain([_EXAMPLE_COLUMNS], rows))


def format_predictions(
    examples: Sequence[Example], classes: Sequence[str], probabilities: Array, *, is_multi_label: bool = False
) -> bytes:
    """Format predictions.csv from the probabilities, (n, classes), of the validation pictures.

    With more than `MAX_DENSE_CLASSES` classes, it has only the probabilities of the predicted and of the true class,
    or none if pictures have several labels.
    """
    columns, shares = [f"p({label})" for label in classes], probabilities
    if is_multi_label:
        flags = probabilities >= LABEL_THRESHOLD
        predicted = [join_labels(label for label, has in zip(classes, row, strict=True) if has) for row in flags]
    else:
        numbers = predict_classes(probabilities)
        predicted = [classes[number] for number in numbers]
    if has_separate_probabilities(classes) and is_multi_label:
        columns, shares = [], probabilities[:, :0]
    elif has_separate_probabilities(classes):
        number_of = {label: number for number, label in enumerate(classes)}
        chosen = np.stack([numbers, [number_of[example.label] for example in examples]], axis=1)
        columns, shares = _SHARE_COLUMNS, np.take_along_axis(probabilities, chosen, axis=1)
    rows = (
        [example.path, example.label, text, *(f"{share:.9g}" for share in row)]
        for example, text, row in zip(examples, predicted, shares, strict=True)
    )
    return format_csv(chain([[*_PREDICTION_COLUMNS, *columns]], rows))


def has_separate_probabilities(classes: Sequence[str]) -> bool:
    """Return whether a run has so many classes that their probabilities are in a file of their own."""
    return len(classes) > MAX_DENSE_CLASSES


def parse_history(data: bytes) -> list[Epoch]:
    """Parse the output of `format_history`; raise ValueError if it is invalid."""
    history = [Epoch(int(epoch), *map(float, values)) for epoch, *values in _parse(data, _EPOCH_COLUMNS)]
    if not history or [row.epoch for row in history] != list(range(1, len(history) + 1)):
        raise ValueError("a missing epoch")
    for row in history[:-1]:
        if not row.is_finite or row.seconds < 0 or not 0 <= row.accuracy <= 1 or not 0 <= row.val_accuracy <= 1:
            raise ValueError(f"a value of epoch {row.epoch} out of range")
    return history


def parse_examples(data: bytes, classes: Sequence[str], *, is_multi_label: bool = False) -> list[RunExample]:
    """Parse the output of `format_examples`; raise ValueError if it is invalid."""
    examples = [RunExample(*row) for row in _parse(data, _EXAMPLE_COLUMNS, _EXAMPLE_COLUMNS[:-1])]
    known = set(classes)
    for example in examples:
        labels = split_labels(example.label) if is_multi_label else [example.label]
        if example.split not in SPLITS or not known.issuperset(labels):
            raise ValueError(f"an unknown split or class for {example.path}")
        if not _HASH.fullmatch(example.content_hash):
            raise ValueError(f"an invalid SHA-256 for {example.path}")
        _check_path(example.path)
    return examples


def parse_predictions(
    data: bytes, classes: Sequence[str], probabilities: Array | None = None, *, is_multi_label: bool = False
) -> list[Prediction]:
    """Parse the output of `format_predictions`; raise ValueError if it is invalid.

    Args:
        data: content of predictions.csv.
        classes: labels in order.
        probabilities: (n, classes) of the same pictures, if the run has them in a file of their own.
        is_multi_label: whether a picture may have several labels.
    """
    columns = [f"p({label})" for label in classes]
    if probabilities is not None:
        columns = [] if is_multi_label else _SHARE_COLUMNS
    rows = _parse(data, [*_PREDICTION_COLUMNS, *columns])
    if not rows:
        raise ValueError("no pictures")
    if probabilities is None:
        shares: NDArray[np.floating[Any]] = np.array([[float(share) for share in row[3:]] for row in rows])
    elif probabilities.shape == (len(rows), len(classes)):
        shares = probabilities
    else:
        raise ValueError(f"probabilities of shape {probabilities.shape}")
    has_sum = is_multi_label | np.isclose(shares.sum(axis=1), 1, rtol=0, atol=1e-3)
    is_valid = ((shares >= 0) & (shares <= 1)).all(axis=1) & has_sum
    known = set(classes)
    predictions = []
    for (path, label, predicted, *_), share, valid in zip(rows, shares, is_valid, strict=True):
        labels = [*split_labels(label), *split_labels(predicted)] if is_multi_label else [label, predicted]
        if not known.issuperset(labels):
            raise ValueError(f"an unknown class for {path}")
        if not valid:
            raise ValueError(f"invalid probabilities for {path}")
        _check_path(path)
        predictions.append(Prediction(path, label, predicted, classes, share))
    return predictions


def parse_probabilities(data: bytes) -> Array:
    """Parse validation_probabilities.npy; raise ValueError unless it has (n, classes) numbers."""
    probabilities = np.asarray(np.load(io.BytesIO(data), allow_pickle=False), np.float32)
    if probabilities.ndim != 2:
        raise ValueError(f"an array of shape {probabilities.shape}")
    return probabilities


def format_csv(rows: Iterable[Iterable[object]]) -> bytes:
    """Format rows as CSV. Bytes of a path that are not UTF-8 are kept."""
    data = io.BytesIO()
    # Encoded while it is written: the text of a million rows needs four times the memory of the bytes.
    text = io.TextIOWrapper(data, "utf-8", "surrogateescape", newline="")
    csv.writer(text).writerows(rows)
    text.flush()
    return data.getvalue()


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
    if PurePath(path).anchor or ".." in PurePath(path).parts or "\0" in path:
        raise ValueError(f"a path outside the folder of the pictures: {path}")
