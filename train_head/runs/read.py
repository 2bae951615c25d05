"""A run: a directory with one fitted head, its config, history, metrics and pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from base.arrays import parse_array
from base.errors import HeadstartError
from base.files import read_regular_file
from features.cuts import open_store
from features.schema import FeatureKey, Pool
from features.store import Example, FeatureStore
from train_head.config import NOTHING
from train_head.data.batches import Array
from train_head.data.split import Split
from train_head.evaluation.metrics import check_metrics
from train_head.runs.record import (
    EXAMPLES_FILE,
    HEAD_FILE,
    HISTORY_FILE,
    LOCAL_FILE,
    LOGITS_FILE,
    MAX_JSON_BYTES,
    METRICS_FILE,
    PREDICTIONS_FILE,
    REDUCTION_FILE,
    read_record,
)
from train_head.runs.tables import (
    SIDES,
    Prediction,
    RunExample,
    parse_examples,
    parse_history,
    parse_predictions,
)
from train_head.solvers.head import HeadWeights
from train_head.solvers.history import Epoch

Parsed = TypeVar("Parsed")
MAX_BYTES = {
    METRICS_FILE: MAX_JSON_BYTES,
    HISTORY_FILE: 2**26,
    EXAMPLES_FILE: 2**29,
    PREDICTIONS_FILE: 2**29,
    LOGITS_FILE: 2**30,
    HEAD_FILE: 2**32,
    REDUCTION_FILE: 2**32,
}
"""The most that a file of a run may have."""


class Run:
    """A finished run on disk. Each file is opened once, and refused where it is not the one that was written."""

    def __init__(self, folder: Path) -> None:
        """Read what the run was made from.

        Raises:
            HeadstartError: there is no run in the folder, it is of another version, or run.json was edited.
        """
        self.folder = folder
        self.record = read_record(folder)

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

    def read_places(self) -> dict[str, str]:
        """Read where the store and the pictures were on this machine; empty where that is not known."""
        try:
            values = json.loads(read_regular_file(self.folder / LOCAL_FILE, 2**16))
            return {str(name): value for name, value in dict(values).items() if isinstance(value, str)}
        except (OSError, ValueError, TypeError, RecursionError):
            return {}

    def open_store(self, path: str = "") -> FeatureStore:
        """Open the store that it was fitted on.

        Args:
            path: where that is now; empty where it was not moved.

        Raises:
            UsageError, FeatureStoreError: it is not there.
            HeadstartError: the store has other features.
        """
        config = self.record.config
        # Where the backbone's last layers follow, the means are taken behind them.
        pool = Pool.NONE if self.unfreeze_from != NOTHING else Pool(config.get("pool", Pool.NONE))
        known = [self.read_places().get("store", ""), str(self.folder.resolve() / self.record.store)]
        places = [Path(path)] if path else [Path(place) for place in known if place]
        place = next((place for place in places if place.exists()), places[0])
        store = open_store(place, str(config.get("cut", "")), pool)
        if store.fingerprint.digest != self.record.fingerprint:
            raise HeadstartError(
                self.folder,
                f"a store with fingerprint {self.record.fingerprint[:12]}…, which the run was fitted on",
                f"{store.fingerprint.digest[:12]}…",
                "Train again on this store, or give the run's own with --store",
            )
        return store

    def find_images(self, store: FeatureStore, path: str = "") -> str:
        """Find the folder of the run's pictures: the one that is given, else where they were, else the store's.

        Returns:
            Its path; empty where none is known, as of a packed store.
        """
        known = self.read_places().get("images", "")
        return path or (known if known and Path(known).is_dir() else store.images_folder)

    def find_split(self, store: FeatureStore) -> Split:
        """Find the run's own examples in a store, by content hash, whatever its catalog lists today.

        Pictures in test/ are those that the store has now: nothing was trained on them.

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
        sides: dict[str, list[Example]] = {side: [] for side in SIDES}
        for example, row in zip(examples, rows, strict=True):
            if row is not None:
                sides[example.side].append(row._replace(path=example.path, label=example.label, split=example.side))
        is_test_used = self.record.split_rule == "folder test/"
        test = [] if is_test_used else [example for example in store.examples if example.split == "test"]
        return Split(sides["train"], sides["validation"], self.record.split_rule, test)

    def check_file(self, name: str) -> Path:
        """Return a data file's path, once its digest was compared.

        Raises:
            HeadstartError: it is missing, no regular file, or not the one that was written.
        """
        self._read(name, "a file of the run", len)
        return self.folder / name

    def check_files(self) -> None:
        """Compare the digests of all data files; raise HeadstartError with the name of one that differs."""
        for name in self.record.files:
            self.check_file(name)

    def read_head(self) -> HeadWeights:
        """Read the fitted head.

        Raises:
            HeadstartError: it is not the one that was fitted.
        """

        def parse(data: bytes) -> HeadWeights:
            head = HeadWeights.parse(data)
            if not all(np.isfinite(array).all() for array in head.list_arrays().values()):
                raise ValueError("numbers that are not finite")
            return head

        return self._read(HEAD_FILE, "the fitted head", parse)

    def read_validation_logits(self) -> Array:
        """Read the logits of a head on reduced inputs for the validation examples, (n, outputs)."""

        def parse(data: bytes) -> Array:
            logits = np.asarray(parse_array(data), np.float32)
            if logits.ndim != 2 or not np.isfinite(logits).all():
                raise ValueError(f"{logits.shape} with numbers that are not finite, or of another shape")
            return logits

        return self._read(LOGITS_FILE, "the fitted head's logits", parse)

    def read_metrics(self) -> dict[str, Any]:
        """Read metrics.json."""

        def parse(data: bytes) -> dict[str, Any]:
            return check_metrics(json.loads(data))

        return self._read(METRICS_FILE, "metrics", parse)

    def read_history(self) -> list[Epoch]:
        """Read what happened in each epoch."""
        return self._read(HISTORY_FILE, "a history", parse_history)

    def read_predictions(self) -> list[Prediction]:
        """Read the head's predictions for the validation pictures.

        Raises:
            HeadstartError: the file is missing, or another.
        """
        classes = self.record.classes
        return self._read(PREDICTIONS_FILE, "the run's predictions", lambda data: parse_predictions(data, classes))

    def read_probabilities(self) -> tuple[NDArray[np.int64], Array]:
        """Reads the truth of each validation picture, (n,) class numbers, and its probabilities, (n, classes)."""
        predictions, classes = self.read_predictions(), self.record.classes
        targets = [classes.index(found.label) for found in predictions]
        probabilities = [[found.probabilities[label] for label in classes] for found in predictions]
        return np.array(targets, np.int64), np.array(probabilities, np.float32)

    def read_examples(self) -> list[RunExample]:
        """Read what the run was trained on and validated with."""
        classes = self.record.classes
        return self._read(EXAMPLES_FILE, "the run's examples", lambda data: parse_examples(data, classes))

    def _read(self, name: str, expected: str, parse: Callable[[bytes], Parsed]) -> Parsed:
        """Read a data file, compare its digest, and parse it; raise HeadstartError with its name."""
        path, advice = self.folder / name, "Train it again with --overwrite, or put the file back"
        wanted = self.record.files.get(name, "")
        if self.record.run_version == 1 and name == HEAD_FILE:
            wanted = self.record.head
        try:
            data = read_regular_file(path, MAX_BYTES[name])
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
