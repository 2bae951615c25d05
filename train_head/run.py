"""A run: a directory with one fitted head, its config, history, metrics and pictures."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.arrays import load_array
from features.cuts import open_store
from features.durable import hash_file
from features.errors import HeadstartError
from features.schema import Pool
from features.store import FeatureStore
from train_head.config import NOTHING, TrainConfig
from train_head.head import Array, HeadWeights
from train_head.metrics import check_metrics
from train_head.solvers.history import Epoch
from train_head.split import Split, list_rows

RUN_FILE, METRICS_FILE, HISTORY_FILE = "run.json", "metrics.json", "history.csv"
EXAMPLES_FILE, PREDICTIONS_FILE = "examples.csv", "predictions.csv"
CURVES_FILE, REPORT_FILE = "curves.png", "report.html"
HEAD_FILE, LOGITS_FILE = "head.npz", "validation_logits.npy"
RUN_VERSION = 1


@dataclass(frozen=True)
class RunRecord:
    """What a run was made from; kept as run.json."""

    config: dict[str, Any]
    solver: str
    store: str
    fingerprint: str
    feature_shape: list[int]
    classes: list[str]
    split_rule: str
    head_sha256: str = ""
    """Of the head's file; known once it is written."""
    reduction: str = ""
    """The key of the reduction whose inputs the head has; empty for a head on the features' own."""
    rank: int | None = None
    """How many inputs the reduction was asked for."""
    views_sha256: str = ""
    """Over which views of the training examples there were; empty for the first of each alone."""
    run_version: int = RUN_VERSION


@dataclass(frozen=True)
class RunExample:
    """An example that a run used, and on which side."""

    side: str
    label: str
    content_hash: str
    path: str


@dataclass(frozen=True)
class Prediction:
    """What a run's head says of a validation picture."""

    path: str
    label: str
    """The truth."""
    predicted: str
    probabilities: dict[str, float]
    """By class."""


def describe_config(config: TrainConfig) -> dict[str, Any]:
    """Puts a config into JSON's types, with absolute paths; without the folder that the store is checked against."""
    values = [(name, value) for name, value in asdict(config).items() if name != "images"]
    return {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in values}


def list_run_examples(split: Split) -> list[RunExample]:
    """Lists what a split uses, in a fixed order."""
    sides = (("train", split.train), ("validation", split.validation))
    return [
        RunExample(side, example.label, example.content_hash.hex(), example.path)
        for side, examples in sides
        for example in sorted(examples, key=lambda example: example.path)
    ]


def hash_views(store: FeatureStore, split: Split, num_views: int | None) -> str:
    """Hashes which views of the training examples a store holds; empty where one of each is asked for."""
    if not num_views or num_views == 1:
        return ""
    rows = sorted({(row.content_hash, row.view) for row in list_rows(store, split.train, num_views)})
    return hashlib.sha256(b"".join(content_hash + view.to_bytes(4, "big") for content_hash, view in rows)).hexdigest()


class Run:
    """A finished run on disk."""

    def __init__(self, folder: Path) -> None:
        """Reads what the run was made from.

        Raises:
            HeadstartError: there is no run in the folder, or it is of another version.
        """
        self.folder = folder
        try:
            self.record = RunRecord(**json.loads((folder / RUN_FILE).read_text(encoding="utf-8")))
            _check_record(self.record)
        except (OSError, ValueError, TypeError) as error:
            raise HeadstartError(
                folder,
                "a run",
                f"no readable {RUN_FILE} ({error})",
                "Train first, or give another --run (RUN=)",
            ) from error
        if self.record.run_version != RUN_VERSION:
            raise HeadstartError(
                folder,
                f"run version {RUN_VERSION}",
                str(self.record.run_version),
                "Train again with --overwrite",
            )

    @property
    def dropout(self) -> float:
        """The head's dropout, for rebuilding it as it was."""
        return float(self.record.config["dropout"])

    @property
    def unfreeze_from(self) -> str:
        """The first layer of the backbone that was trained again, or `none`."""
        return str(self.record.config.get("unfreeze_from", NOTHING))

    @property
    def num_views(self) -> int:
        """How many views of each picture it was trained on."""
        return int(self.record.config.get("views") or 1)

    def open_store(self, path: str = "") -> FeatureStore:
        """Opens the store that it was fitted on.

        Args:
            path: where that is now; empty where it was not moved.

        Raises:
            UsageError, FeatureStoreError: it is not there.
        """
        config = self.record.config
        # Where the backbone's last layers follow, the means are taken behind them.
        pool = Pool.NONE if self.unfreeze_from != NOTHING else Pool(config.get("pool", Pool.NONE))
        return open_store(Path(path or self.record.store), str(config.get("cut", "")), pool)

    def read_head(self) -> HeadWeights:
        """Reads the fitted head.

        Raises:
            HeadstartError: it is not the one that was fitted.
        """
        path = self.folder / HEAD_FILE
        head = HeadWeights.load(path)
        if hash_file(path) != self.record.head_sha256:
            raise HeadstartError(
                path,
                f"the fitted head, SHA-256 {self.record.head_sha256[:12]}…",
                f"another file, {hash_file(path)[:12]}…",
                "Train it again with --overwrite",
            )
        return head

    def read_validation_logits(self) -> Array:
        """Reads what a head on reduced inputs said of the validation examples, (n, outputs)."""
        path = self.folder / LOGITS_FILE
        try:
            return np.asarray(load_array(path), np.float32)
        except (OSError, EOFError, ValueError) as error:
            raise HeadstartError(
                path, "the fitted head's logits", str(error), "Train again with --overwrite"
            ) from error

    def read_metrics(self) -> dict[str, Any]:
        """Reads metrics.json."""
        try:
            return check_metrics(json.loads((self.folder / METRICS_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            raise HeadstartError(
                self.folder / METRICS_FILE, "metrics", str(error), "Train again with --overwrite"
            ) from error

    def read_history(self) -> list[Epoch]:
        """Reads what happened in each epoch."""
        try:
            with (self.folder / HISTORY_FILE).open(newline="", encoding="utf-8") as file:
                rows = [dict(row) for row in csv.DictReader(file)]
            if not rows:
                raise ValueError("no epochs in it")
            names = [field.name for field in fields(Epoch)][1:]
            return [Epoch(int(row["epoch"]), *(float(row[name]) for name in names)) for row in rows]
        except (OSError, TypeError, ValueError, KeyError, csv.Error) as error:
            raise HeadstartError(
                self.folder / HISTORY_FILE, "a history", str(error), "Train again with --overwrite"
            ) from error

    def read_predictions(self) -> list[Prediction]:
        """Reads what the head says of each validation picture.

        Raises:
            HeadstartError: the file is missing, or another.
        """
        path, classes = self.folder / PREDICTIONS_FILE, self.record.classes
        try:
            with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
                header, *rows = csv.reader(file, strict=True)
            if header[:3] != ["path", "label", "predicted"] or len(header) != 3 + len(classes):
                raise ValueError("other columns")
            return [
                Prediction(row[0], row[1], row[2], dict(zip(classes, map(float, row[3:]), strict=True))) for row in rows
            ]
        except (OSError, TypeError, ValueError, csv.Error) as error:
            raise HeadstartError(path, "the run's predictions", str(error), "Train again with --overwrite") from error

    def read_probabilities(self) -> tuple[NDArray[np.int64], Array]:
        """Reads the truth of each validation picture, (n,) class numbers, and its probabilities, (n, classes)."""
        predictions, classes = self.read_predictions(), self.record.classes
        targets = [classes.index(found.label) for found in predictions]
        probabilities = [[found.probabilities[label] for label in classes] for found in predictions]
        return np.array(targets, np.int64), np.array(probabilities, np.float32)

    def read_examples(self) -> list[RunExample]:
        """Reads what the run was trained on and validated with."""
        try:
            with (self.folder / EXAMPLES_FILE).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
                rows = list(csv.reader(file, strict=True))
            if not rows or rows[0] != [field.name for field in fields(RunExample)]:
                raise ValueError("other columns")
            return [RunExample(*row) for row in rows[1:]]
        except (OSError, TypeError, ValueError, csv.Error) as error:
            raise HeadstartError(
                self.folder / EXAMPLES_FILE, "the run's examples", str(error), "Train again with --overwrite"
            ) from error


def _check_record(record: RunRecord) -> None:
    """Raises ValueError where a value is of another kind than was written."""
    config = record.config
    expected = (
        isinstance(config, dict)
        and all(isinstance(config.get(name), float) for name in ("dropout", "validation_split"))
        and all(isinstance(text, str) for text in (record.store, record.fingerprint, record.head_sha256))
        and isinstance(record.classes, list)
        and isinstance(config.get("views"), int | None)
        and config.get("pool", Pool.NONE) in list(Pool)
    )
    if not expected:
        raise ValueError("values of other kinds than a run has")
