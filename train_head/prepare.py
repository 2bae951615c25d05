"""Check a training's options, open its store and plan its fits; nothing is fitted or written."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from base.errors import HeadstartError, UsageError, require_extra
from features.cuts import list_cuts, open_store
from features.store import FeatureStore
from train_head.config import NO_FINE_TUNING, OptimizerName, SolverName, TrainConfig
from train_head.data.split import Split, hash_views, split_examples
from train_head.data.summary import check_extraction, check_images_folder
from train_head.runs.read import Run
from train_head.runs.record import DEFAULTS, PATH_OPTIONS, RUN_FILE, RunRecord, describe_config, recover_run
from train_head.runs.tables import RunExample, list_run_examples
from train_head.runs.write import shorten_path
from train_head.trials import Trial, plan_trials

_NOT_COMPARED = {*PATH_OPTIONS, "overwrite", "no_report", "tensorboard"}
_NOT_SETTLED = ("cut", "")
"""The option of older runs on a store with one cut; the fingerprint has it too."""


@dataclass(frozen=True)
class Training:
    """A training whose options were checked against its store, and of which nothing is fitted yet."""

    config: TrainConfig
    """The options, with the store's path, the cut and the number of views settled."""
    store: FeatureStore
    split: Split
    trials: list[Trial]
    record: RunRecord

    def list_differences(self) -> list[str]:
        """List how the run in the folder differs from this one; empty where it is the same run."""
        return list_differences(Run(self.config.run), self.record, list_run_examples(self.split))

    def is_completed(self) -> bool:
        """Return whether the folder holds this very run already."""
        return holds_run(self.config.run) and not self.list_differences()


def prepare_training(config: TrainConfig) -> Training:
    """Prepare a training; raise UsageError or HeadstartError where it cannot be done."""
    check_arguments(config)
    store = open_training_store(config)
    config = replace(config, store=store.path, cut=store.fingerprint.cut, views=resolve_num_views(store, config.views))
    split = split_store(store, config)
    origin = store.origin
    record = RunRecord(
        config=describe_config(config),
        solver="",
        store=shorten_path(store.path, config.run),
        fingerprint=store.fingerprint.digest,
        feature_shape=list(store.feature_shape),
        classes=split.classes,
        split_rule=split.rule,
        images=Path(store.images_folder).name,
        weights=Path(origin.weights_file).name if origin.weights_name == "file" else origin.weights_name,
        weights_sha256=store.fingerprint.weights_sha256,
        views_sha256=hash_views(store, split, config.views),
    )
    return Training(config, store, split, plan_trials(config, split), record)


def open_training_store(config: TrainConfig) -> FeatureStore:
    """Open the store of a training: where layers are unfrozen, with the last cut before them and without pooling."""
    if config.unfreeze_from == NO_FINE_TUNING:
        return open_store(config.store, config.cut, config.pool)
    from train_head.finetuning.backbone import choose_stored_cut

    return open_store(config.store, config.cut or choose_stored_cut(list_cuts(config.store), config.unfreeze_from))


def check_arguments(config: TrainConfig) -> None:
    """Raise UsageError where options contradict each other, or ask for what is not installed."""
    for option, rate, default in (
        ("--learning-rate", config.learning_rate, "1e-4"),
        ("--fine-tune-learning-rate", config.fine_tune_learning_rate, "1e-5"),
    ):
        if not 0 < rate < math.inf:
            raise UsageError(option, "a number above 0", f"{rate:g}", f"{default} is the default")
    if config.momentum and config.optimizer is not OptimizerName.SGD:
        raise UsageError("--momentum", "--optimizer sgd", f"--optimizer {config.optimizer}", "Leave one of them out")
    if config.rank and config.solver is SolverName.FULL:
        raise UsageError("--rank", "--solver reduced or auto", "--solver full", "Leave one of them out")
    if config.tensorboard:
        require_extra("tensorboard", "--tensorboard", "train TENSORBOARD=1")


def resolve_num_views(store: FeatureStore, asked: int | None) -> int:
    """Return the views to train on; raise UsageError where the store has fewer than were asked for."""
    if asked is not None and asked > store.num_views:
        expected = f"at most {store.num_views}, as many as {store.path} holds"
        raise UsageError("--views", expected, str(asked), f"Run `python -m extract --views {asked}` first")
    return asked or store.num_views


def split_store(store: FeatureStore, config: TrainConfig) -> Split:
    """Split a store into training and validation pictures; raise HeadstartError where either has too few."""
    check_images_folder(store, config.images)
    check_extraction(store)
    return split_examples(store.examples, config.validation_split, store.images)


def holds_run(folder: Path) -> bool:
    """Return whether a folder holds a run; raise HeadstartError where it is no folder, or holds other files alone."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise HeadstartError(folder, "a folder for the run", "something else", "Give another --run (RUN=)")
    recover_run(folder)
    if os.path.lexists(folder / RUN_FILE):
        return True
    # In a mount point, the lock, what a kill left, and what a file system has in its root.
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if any(name != "lost+found" and not name.startswith(".") for name in names):
        raise HeadstartError(folder, "an empty folder", "a folder with other files", "Give another --run (RUN=)")
    return False


def list_differences(run: Run, record: RunRecord, examples: Sequence[RunExample]) -> list[str]:
    """List how an undamaged run differs from the one that is asked for; empty where it is the same run."""

    def show(value: object) -> str:
        return "nothing" if value is None else str(value)

    asked = record.config
    differences = [
        f"{name} {show(theirs)} instead of {show(asked.get(name))}"
        for name, theirs in {**DEFAULTS, **run.record.config}.items()
        if name not in _NOT_COMPARED and theirs != asked.get(name) and (name, theirs) != _NOT_SETTLED
    ]
    if run.record.fingerprint != record.fingerprint:
        differences.append("features of another fingerprint")
    if differences:
        return differences
    run.check_files()
    if set(run.read_examples()) != set(examples):
        return ["other pictures"]
    return ["other views of the pictures"] if run.record.views_sha256 != record.views_sha256 else []
