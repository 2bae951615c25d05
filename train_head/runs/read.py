"""Finished run: a folder with one fitted head, its options, history, metrics and examples."""

from __future__ import annotations

import base64
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from base.errors import HeadstartError, UsageError
from base.files import read_regular_file
from base.notebook import render_table
from base.terminal import Console, ConsoleOptions, format_count, format_list
from base.urls import has_pictures
from extract.weights.find import describe_weak_weights
from features.cuts import open_store
from features.options import Pool
from features.schema import FeatureKey
from features.store import Example, FeatureStore
from train_head.config import NO_FINE_TUNING
from train_head.data.batches import Array
from train_head.data.split import Split
from train_head.evaluation.label_issues import LabelIssue
from train_head.evaluation.uncertainty import KINDS_OF_FITS, describe_all_fits, describe_results
from train_head.runs import record, tables
from train_head.runs.expand import expand_head
from train_head.runs.files import RunFiles
from train_head.runs.label_table import read_label_issues
from train_head.solvers.head import HeadWeights
from train_head.solvers.history import Epoch
from train_head.solvers.network import compute_logits, compute_probabilities

_MAX_PLOT_BYTES = 2**24


class Run(RunFiles):
    """Finished run on disk: its options, its results, and its head."""

    def __repr__(self) -> str:
        """Return the folder, the accuracy, its mean over repeats or folds, the solver and the classes."""
        classes = format_list([*map(repr, self.classes)])
        accuracy = "".join(f"{text}, " for text in self._list_accuracies())
        return f"Run({str(self.folder)!r}, {accuracy}solver={self.record.solver!r}, classes=[{classes}])"

    def _list_accuracies(self) -> list[str]:
        """Return the accuracy, and its mean and standard deviation over repeats or folds; empty without a folder."""
        try:
            metrics = self.metrics
        except HeadstartError:
            return []
        fits = {kind: metrics[kind] for kind in KINDS_OF_FITS if metrics.get(kind)}
        means = [f"{kind}={found['mean']:.4f} ± {found['std']:.4f}" for kind, found in fits.items()]
        return [f"accuracy={metrics['val_accuracy']:.4f}", *means]

    def _repr_html_(self) -> str:
        try:
            metrics = self.metrics
        except HeadstartError:
            # A notebook can show a run whose folder was deleted.
            return escape(repr(self))
        rows = dict(describe_results(metrics)) | dict(describe_all_fits(metrics))
        epochs = f"{metrics['epochs']}, weights of epoch {metrics['kept_epoch']}"
        rows |= {"solver": self.record.solver, "epochs": epochs}
        rows["pictures"] = f"{metrics['num_train']:,} for training, {metrics['num_validation']:,} for validation"
        rows |= {"weights": self.weak_weights} if self.weak_weights else {}
        rows |= {"report": str(self.report_path)} if self.report_path else {}
        return render_table(f"run {self.folder}", [*rows.items()]) + self._embed_curves()

    def _embed_curves(self) -> str:
        """Return the learning curves as an HTML picture; empty without them."""
        try:
            plot = read_regular_file(self.folder / record.CURVES_FILE, _MAX_PLOT_BYTES)
        except OSError:
            return ""
        data = base64.b64encode(plot).decode()
        return f'<img alt="learning curves" style="max-width: 100%" src="data:image/png;base64,{data}">'

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics, as `--json` prints them."""
        return self.read_metrics()

    @property
    def history(self) -> list[Epoch]:
        """Losses and accuracies of each epoch."""
        return self.read_history()

    @property
    def head(self) -> HeadWeights:
        """Fitted head; its inputs are reduced if the reduced solver fitted it."""
        return self.read_head()

    @property
    def accuracy(self) -> float:
        """Validation accuracy, from 0 to 1; with several labels a picture, the share with all labels correct."""
        return float(self.read_metrics()["val_accuracy"])

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the probability columns."""
        return list(self.record.classes)

    @property
    def options(self) -> dict[str, Any]:
        """Training options, without paths."""
        return dict(self.record.config)

    @property
    def report_path(self) -> Path | None:
        """Path of the report; None if it was not written."""
        path = self.folder / record.REPORT_FILE
        return path if path.is_file() else None

    @property
    def label_issues(self) -> list[LabelIssue]:
        """Labels to check, as in the report: by kind, then those most likely wrong first."""
        return read_label_issues(self.folder)

    @property
    def dropout(self) -> float:
        """Dropout rate of the head."""
        return float(self.record.config["dropout"])

    @property
    def weak_weights(self) -> str:
        """Name of the backbone's weights with a remark, if they are weaker than ImageNet's; else empty."""
        return describe_weak_weights(self.record.weights)

    @property
    def unfreeze_from(self) -> str:
        """First fine-tuned layer of the backbone, or `none`."""
        return str(self.record.config.get("unfreeze_from", NO_FINE_TUNING))

    @property
    def num_views(self) -> int:
        """Number of views of each training picture."""
        return int(self.record.config.get("views") or 1)

    def predict_proba(self, features: ArrayLike) -> Array:
        """Predict class probabilities from features of the run's backbone.

        The first call expands the head of a reduced run to all inputs, which needs the run's store.

        Args:
            features: (n, *feature_shape) float32 or float16, as read from the run's store.

        Returns:
            (n, classes) float32, in the order of `classes`. Each row adds up to 1, unless pictures have several labels.

        Raises:
            UsageError: the features have the wrong shape, or the run was fine-tuned.
            HeadstartError: the head cannot be read or expanded.
        """
        if self.unfreeze_from != NO_FINE_TUNING:
            expected, got = "a run without fine-tuning", f"one fine-tuned from {self.unfreeze_from}"
            raise UsageError(self.folder, expected, got, "Export the run and predict from pixels")
        found, shape = np.asarray(features), tuple(self.record.feature_shape)
        if found.shape[1:] != shape or found.ndim == 0:
            expected = f"an array of shape {('n', *shape)}".replace("'", "")
            raise UsageError("features", expected, str(found.shape), "Read them from the run's store")
        if not len(found):
            return np.zeros((0, len(self.classes)), np.float32)
        logits = compute_logits(self._expanded_head, found.reshape(len(found), -1))
        return compute_probabilities(logits, is_multi_label=self.is_multi_label)

    @cached_property
    def _expanded_head(self) -> HeadWeights:
        head = self.read_head()
        if self.record.reduction:
            store = self.open_store()
            head = expand_head(self, store, self.find_split(store).validation, Console(ConsoleOptions(quiet=True)))
        return head.divide_logits(self.record.temperature)

    def locate_store(self) -> Path:
        """Return the recorded path of the store that the run was fitted on; it may be missing."""
        known = [self.read_local_paths().get("store", ""), str(self.folder.resolve() / self.record.store)]
        candidates = [Path(candidate) for candidate in known if candidate]
        return next((candidate for candidate in candidates if candidate.exists()), candidates[0])

    def open_store(self, path: str = "") -> FeatureStore:
        """Open the store that the run was fitted on.

        Args:
            path: path of the store, if it was moved.

        Raises:
            HeadstartError: the store is missing, or its fingerprint is not that of the run.
        """
        config = self.record.config
        # A fine-tuned run pools the output of the tail, not the stored features.
        pool = Pool.NONE if self.unfreeze_from != NO_FINE_TUNING else Pool(config.get("pool", Pool.NONE))
        place = Path(path) if path else self.locate_store()
        store = open_store(place, str(config.get("cut", "")), pool, self.record.scales)
        if store.fingerprint.digest != self.record.fingerprint:
            expected = f"the store that the run was fitted on, fingerprint {self.record.fingerprint[:12]}…"
            got = f"{store.path}, fingerprint {store.fingerprint.digest[:12]}…"
            raise HeadstartError(self.folder, expected, got, "Give the right `store`, or train again on this one")
        return store

    def locate_images(self) -> str:
        """Return the recorded folder of the pictures, which may be missing; only its name on another computer."""
        return self.read_local_paths().get("images", "") or self.record.images

    def find_images(self, store: FeatureStore, path: str = "") -> str:
        """Return the folder of the pictures: `path`, else the recorded one, else the store's; empty if unknown."""
        known = self.read_local_paths().get("images", "")
        return path or (known if known and has_pictures(known) else store.images_folder)

    def find_split(self, store: FeatureStore) -> Split:
        """Find the run's examples in a store by content hash, and add the store's current test pictures.

        Raises:
            HeadstartError: some examples have no feature in the store; `where` names the shard that held the first.
        """
        examples = self.read_examples()
        rows = store.find_examples(FeatureKey(bytes.fromhex(example.content_hash), 0) for example in examples)
        lost = [example for example, row in zip(examples, rows, strict=True) if row is None]
        if lost:
            raise HeadstartError(
                f"{store.path}, {lost[0].shard or 'a shard'}",
                f"the features of all {len(examples):,} pictures that {self.folder} was fitted on",
                f"{format_count(len(lost), 'picture')} without features, the first {lost[0].path}",
                "Restore the shard, or extract these pictures and train again",
            )
        found: dict[str, list[Example]] = {split: [] for split in tables.SPLITS}
        for example, row in zip(examples, rows, strict=True):
            if row is not None:
                found[example.split].append(row._replace(path=example.path, label=example.label, split=example.split))
        is_test_used = self.record.split_rule == "folder test/"
        test = [] if is_test_used else [example for example in store.examples if example.split == "test"]
        rule = self.record.split_rule
        return Split(found["train"], found["validation"], rule, test, is_multi_label=self.is_multi_label)
