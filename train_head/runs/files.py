"""Files of a run, each checked against its recorded digest when it is read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from base.errors import HeadstartError
from base.files import read_regular_file
from features.validation_split import Labelled, encode_label_sets, encode_labels
from train_head.data.batches import Array
from train_head.data.split import Targets
from train_head.evaluation.outliers import OutlierDetector
from train_head.reduction.record import Expansion, parse_logits
from train_head.runs import record, tables
from train_head.runs.tables import Prediction, RunExample
from train_head.solvers.head import HeadWeights
from train_head.solvers.history import Epoch

Parsed = TypeVar("Parsed")


class RunFiles:
    """Files in the folder of a run.

    Each access reads the data file again, compares its digest with the recorded one, and parses the same bytes.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Read run.json.

        Raises:
            HeadstartError: the folder holds no run, the run has a newer version, or run.json was edited.
        """
        self.folder = Path(folder)
        self.record = record.read_record(self.folder)

    @property
    def is_multi_label(self) -> bool:
        """Whether a picture has any number of the classes, instead of one."""
        return self.record.is_multi_label

    def read_local_paths(self) -> dict[str, str]:
        """Read the paths of the store and the pictures on this machine; return an empty dictionary if unknown."""
        try:
            values = json.loads(read_regular_file(self.folder / record.LOCAL_FILE, 2**16))
            return {str(name): value for name, value in dict(values).items() if isinstance(value, str)}
        except (OSError, ValueError, TypeError, RecursionError):
            return {}

    def require_unchanged(self) -> None:
        """Raise HeadstartError if another run has replaced this one since it was read."""
        if record.read_record(self.folder) != self.record:
            advice = "Open the run again; the earlier one may be kept beside it, with a date in its name"
            raise HeadstartError(self.folder, "the run that was read", "another run in its folder", advice)

    def check_files(self) -> None:
        """Check the digests of all data files; raise HeadstartError for the first that differs."""
        for name in self.record.files:
            self._read(name, "a file of the run", len)

    def read_head(self) -> HeadWeights:
        """Read the fitted head; its inputs are reduced if the reduced solver fitted it."""
        return self._read(record.HEAD_FILE, "the fitted head", HeadWeights.parse)

    def read_expansion(self) -> Expansion:
        """Read the map from reduced inputs to all inputs."""
        return self._read(record.REDUCTION_FILE, "the reduction of the fitted head", Expansion.parse)

    def read_validation_logits(self) -> Array:
        """Read the logits, (n, outputs), that the reduced head gives for the validation examples."""
        return self._read(record.LOGITS_FILE, "the fitted head's logits", parse_logits)

    def read_outliers(self) -> OutlierDetector | None:
        """Read the detector of pictures unlike the training pictures; None if the run has none."""
        if record.OUTLIERS_FILE not in self.record.files:
            return None
        return self._read(record.OUTLIERS_FILE, "the detector of outliers", OutlierDetector.parse)

    def read_metrics(self) -> dict[str, Any]:
        """Read metrics.json."""

        def parse(data: bytes) -> dict[str, Any]:
            metrics = json.loads(data)
            if not isinstance(metrics, dict) or not isinstance(metrics.get("val_accuracy"), int | float):
                raise ValueError("no val_accuracy")
            return metrics

        return self._read(record.METRICS_FILE, "metrics", parse)

    def read_history(self) -> list[Epoch]:
        """Read the losses and accuracies of each epoch."""
        return self._read(record.HISTORY_FILE, "a history", tables.parse_history)

    def read_predictions(self) -> list[Prediction]:
        """Read the predictions for the validation pictures."""
        probabilities = None
        if record.PROBABILITIES_FILE in self.record.files:
            probabilities = self._read(record.PROBABILITIES_FILE, "the run's probabilities", tables.parse_probabilities)
        parse = partial(
            tables.parse_predictions,
            classes=self.record.classes,
            probabilities=probabilities,
            is_multi_label=self.is_multi_label,
        )
        return self._read(record.PREDICTIONS_FILE, "the run's predictions", parse)

    def read_probabilities(self) -> tuple[Targets, Array]:
        """Read the targets, (n,) or (n, classes), and the probabilities, (n, classes), of the validation pictures."""
        predictions = self.read_predictions()
        return self.encode(predictions), np.array([found.row for found in predictions], np.float32)

    def encode(self, examples: Sequence[Labelled]) -> Targets:
        """Return the class numbers of examples or predictions of this run, or which labels each of them has."""
        return (encode_label_sets if self.is_multi_label else encode_labels)(examples, self.record.classes)

    def read_examples(self) -> list[RunExample]:
        """Read the training and validation examples."""
        return self._read(
            record.EXAMPLES_FILE,
            "the run's examples",
            partial(tables.parse_examples, classes=self.record.classes, is_multi_label=self.is_multi_label),
        )

    def _read(self, name: str, expected: str, parse: Callable[[bytes], Parsed]) -> Parsed:
        """Read a data file, check its digest and parse it; raise HeadstartError if either fails."""
        path, advice = self.folder / name, "Restore the file, or train again with `overwrite`"
        wanted = self.record.files.get(name, "")
        if self.record.run_version == 1 and name == record.HEAD_FILE:
            wanted = self.record.head
        try:
            data = read_regular_file(path, record.DATA_FILES[name])
            found = hashlib.sha256(data).hexdigest()
            if found != wanted and (wanted or self.record.run_version > 1):
                self.require_unchanged()
                recorded = f"SHA-256 {wanted[:12]}…" if wanted else f"a SHA-256 recorded in {record.RUN_FILE}"
                raise HeadstartError(path, f"{expected} with {recorded}", f"SHA-256 {found[:12]}…", advice)
            return parse(data)
        except HeadstartError:
            raise
        except Exception as error:
            # A damaged .npz makes zipfile, zlib or NumPy fail, each with its own exceptions.
            got = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
            raise HeadstartError(path, expected, got, advice) from error
