"""A run: a directory with one fitted head, its config, history, metrics and pictures."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from functools import cached_property, partial
from html import escape
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from base.errors import HeadstartError, UsageError
from base.files import read_regular_file
from base.terminal import Console, ConsoleOptions
from features.cuts import open_store
from features.schema import FeatureKey, Pool
from features.store import Example, FeatureStore
from train_head.config import NO_FINE_TUNING
from train_head.data.batches import Array
from train_head.data.split import Split
from train_head.evaluation.uncertainty import describe_accuracy, describe_interval
from train_head.reduction.record import Expansion, parse_logits
from train_head.runs.expand import expand_head
from train_head.runs.record import (
    DATA_FILES,
    EXAMPLES_FILE,
    HEAD_FILE,
    HISTORY_FILE,
    LOCAL_FILE,
    LOGITS_FILE,
    METRICS_FILE,
    PREDICTIONS_FILE,
    REDUCTION_FILE,
    REPORT_FILE,
    read_record,
)
from train_head.runs.tables import SPLITS, Prediction, RunExample, parse_examples, parse_history, parse_predictions
from train_head.solvers.head import HeadWeights
from train_head.solvers.history import Epoch
from train_head.solvers.network import compute_logits, compute_probabilities

Parsed = TypeVar("Parsed")


class Run:
    """A finished run on disk. Each file is opened once, and refused where it is not the one that was written."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Read run.json; raise HeadstartError where there is no run, or one of another version, or it was edited."""
        self.folder = Path(folder)
        self.record = read_record(self.folder)

    def __repr__(self) -> str:
        """Return the folder, the solver and the classes."""
        return f"Run({str(self.folder)!r}, solver={self.record.solver!r}, classes={self.classes!r})"

    def _repr_html_(self) -> str:
        try:
            metrics = self.metrics
        except HeadstartError:
            # A notebook shows a run whose folder is gone, too.
            return escape(repr(self))
        rows = {"validation accuracy": describe_accuracy(metrics), "its 95 % interval": describe_interval(metrics)}
        rows |= {"solver": self.record.solver, "epochs": f"{metrics['epochs']}, epoch {metrics['kept_epoch']} kept"}
        rows["pictures"] = f"{metrics['num_train']:,} to train, {metrics['num_validation']:,} to validate"
        rows |= {"report": str(self.report_path)} if self.report_path else {}
        cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows.items())
        return f"<table><caption>run {escape(str(self.folder))}</caption>{cells}</table>"

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics, as `--json` prints them."""
        return self.read_metrics()

    @property
    def history(self) -> list[Epoch]:
        """The epochs."""
        return self.read_history()

    @property
    def head(self) -> HeadWeights:
        """The head as it was fitted: on reduced inputs with the reduced solver."""
        return self.read_head()

    @property
    def accuracy(self) -> float:
        """The validation accuracy."""
        return float(self.read_metrics()["val_accuracy"])

    @property
    def classes(self) -> list[str]:
        """The classes, in the order of the columns of probabilities."""
        return list(self.record.classes)

    @property
    def options(self) -> dict[str, Any]:
        """The options of the training, without places."""
        return dict(self.record.config)

    @property
    def report_path(self) -> Path | None:
        """The report, or None where there is none."""
        path = self.folder / REPORT_FILE
        return path if path.is_file() else None

    @property
    def dropout(self) -> float:
        """The head's dropout."""
        return float(self.record.config["dropout"])

    @property
    def unfreeze_from(self) -> str:
        """The first layer of the backbone that was trained again, or `none`."""
        return str(self.record.config.get("unfreeze_from", NO_FINE_TUNING))

    @property
    def num_views(self) -> int:
        """Views of each picture that it was trained on."""
        return int(self.record.config.get("views") or 1)

    def predict_proba(self, features: ArrayLike) -> Array:
        """Predict probabilities for features of the backbone that the run was fitted on.

        The head of a reduced run is expanded to all inputs once, for which its store must be in place.

        Args:
            features: (n, *feature_shape) float32 or float16, as the run's store returns them.

        Returns:
            (n, classes) float32; columns as in `classes`.

        Raises:
            UsageError: features of another shape, or a run whose backbone was trained again.
            HeadstartError: the head cannot be read or expanded.
        """
        if self.unfreeze_from != NO_FINE_TUNING:
            advice = "Export it, and predict from pixels"
            raise UsageError(self.folder, "a run of a head alone", f"one unfrozen from {self.unfreeze_from}", advice)
        found, shape = np.asarray(features), tuple(self.record.feature_shape)
        if found.shape[1:] != shape or found.ndim == 0:
            expected = f"an array of {('n', *shape)}".replace("'", "")
            raise UsageError("features", expected, str(found.shape), "Read them from the run's store")
        if not len(found):
            return np.zeros((0, len(self.classes)), np.float32)
        return compute_probabilities(compute_logits(self._expanded_head, found.reshape(len(found), -1)))

    @cached_property
    def _expanded_head(self) -> HeadWeights:
        if not self.record.reduction:
            return self.read_head()
        store = self.open_store()
        return expand_head(self, store, self.find_split(store).validation, Console(ConsoleOptions(quiet=True)))

    def read_local_paths(self) -> dict[str, str]:
        """Read where the store and the pictures were on this machine; empty where that is not known."""
        try:
            values = json.loads(read_regular_file(self.folder / LOCAL_FILE, 2**16))
            return {str(name): value for name, value in dict(values).items() if isinstance(value, str)}
        except (OSError, ValueError, TypeError, RecursionError):
            return {}

    def open_store(self, path: str = "") -> FeatureStore:
        """Open the store that it was fitted on, at `path` where it was moved; raise HeadstartError for another one."""
        config = self.record.config
        # Where the backbone's last layers follow, the means are taken behind them.
        pool = Pool.NONE if self.unfreeze_from != NO_FINE_TUNING else Pool(config.get("pool", Pool.NONE))
        known = [self.read_local_paths().get("store", ""), str(self.folder.resolve() / self.record.store)]
        places = [Path(path)] if path else [Path(place) for place in known if place]
        place = next((place for place in places if place.exists()), places[0])
        store = open_store(place, str(config.get("cut", "")), pool)
        if store.fingerprint.digest != self.record.fingerprint:
            expected = f"a store with fingerprint {self.record.fingerprint[:12]}…, which the run was fitted on"
            advice = "Train again on this store, or give the run's own with --store"
            raise HeadstartError(self.folder, expected, f"{store.fingerprint.digest[:12]}…", advice)
        return store

    def find_images(self, store: FeatureStore, path: str = "") -> str:
        """Find the folder of the pictures: the one given, else the earlier one, else the store's; empty if unknown."""
        known = self.read_local_paths().get("images", "")
        return path or (known if known and Path(known).is_dir() else store.images_folder)

    def find_split(self, store: FeatureStore) -> Split:
        """Find the run's own examples in a store by content hash, and today's pictures in test/.

        Raises:
            HeadstartError: some have no feature there any more; names the shard that held the first.
        """
        examples = self.read_examples()
        rows = store.find_examples(FeatureKey(bytes.fromhex(example.content_hash), 0) for example in examples)
        lost = [example for example, row in zip(examples, rows, strict=True) if row is None]
        if lost:
            raise HeadstartError(
                f"{store.path}, {lost[0].shard or 'a shard'}",
                f"the features of all {len(examples):,} pictures that {self.folder} was fitted on",
                f"{len(lost):,} missing, {lost[0].path} first",
                "Put the shard back, or extract these pictures and train again",
            )
        found: dict[str, list[Example]] = {split: [] for split in SPLITS}
        for example, row in zip(examples, rows, strict=True):
            if row is not None:
                found[example.split].append(row._replace(path=example.path, label=example.label, split=example.split))
        is_test_used = self.record.split_rule == "folder test/"
        test = [] if is_test_used else [example for example in store.examples if example.split == "test"]
        return Split(found["train"], found["validation"], self.record.split_rule, test)

    def check_files(self) -> None:
        """Compare the digests of all data files; raise HeadstartError with the name of one that differs."""
        for name in self.record.files:
            self._read(name, "a file of the run", len)

    def read_head(self) -> HeadWeights:
        """Read the fitted head."""
        return self._read(HEAD_FILE, "the fitted head", HeadWeights.parse)

    def read_expansion(self) -> Expansion:
        """Read what expands a head on reduced inputs."""
        return self._read(REDUCTION_FILE, "the reduction of the fitted head", Expansion.parse)

    def read_validation_logits(self) -> Array:
        """Read the logits of a head on reduced inputs for the validation examples, (n, outputs)."""
        return self._read(LOGITS_FILE, "the fitted head's logits", parse_logits)

    def read_metrics(self) -> dict[str, Any]:
        """Read metrics.json."""

        def parse(data: bytes) -> dict[str, Any]:
            metrics = json.loads(data)
            if not isinstance(metrics, dict) or not isinstance(metrics.get("val_accuracy"), int | float):
                raise ValueError("no val_accuracy in it")
            return metrics

        return self._read(METRICS_FILE, "metrics", parse)

    def read_history(self) -> list[Epoch]:
        """Read the epochs."""
        return self._read(HISTORY_FILE, "a history", parse_history)

    def read_predictions(self) -> list[Prediction]:
        """Read the head's predictions for the validation pictures."""
        parse = partial(parse_predictions, classes=self.record.classes)
        return self._read(PREDICTIONS_FILE, "the run's predictions", parse)

    def read_probabilities(self) -> tuple[NDArray[np.int64], Array]:
        """Read the validation pictures' class numbers, (n,), and the head's probabilities, (n, classes)."""
        predictions, classes = self.read_predictions(), self.record.classes
        targets = [classes.index(found.label) for found in predictions]
        probabilities = [[found.probabilities[label] for label in classes] for found in predictions]
        return np.array(targets, np.int64), np.array(probabilities, np.float32)

    def read_examples(self) -> list[RunExample]:
        """Read the examples that the run was trained on and validated with."""
        return self._read(EXAMPLES_FILE, "the run's examples", partial(parse_examples, classes=self.record.classes))

    def _read(self, name: str, expected: str, parse: Callable[[bytes], Parsed]) -> Parsed:
        """Read a data file, compare its digest, and parse it; raise HeadstartError with its name."""
        path, advice = self.folder / name, "Train it again with --overwrite, or put the file back"
        wanted = self.record.files.get(name, "")
        if self.record.run_version == 1 and name == HEAD_FILE:
            wanted = self.record.head
        try:
            data = read_regular_file(path, DATA_FILES[name])
            found = hashlib.sha256(data).hexdigest()
            if found != wanted and (wanted or self.record.run_version > 1):
                wanted_text = f"{expected}, SHA-256 {wanted[:12] or 'none'}…"
                raise HeadstartError(path, wanted_text, f"another file, {found[:12]}…", advice)
            return parse(data)
        except HeadstartError:
            raise
        except Exception as error:
            # A damaged .npz fails in zipfile, in zlib or in NumPy, each with errors of its own.
            got = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
            raise HeadstartError(path, expected, got, advice) from error
