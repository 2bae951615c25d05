"""What is checked and opened before a head is fitted; nothing is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from base.errors import UsageError, require_extra
from features.cuts import list_cuts, open_store
from features.store import FeatureStore
from train_head.config import NOTHING, OptimizerName, SolverName, TrainConfig
from train_head.data.split import Split, hash_views, split_examples
from train_head.data.summary import refuse_other_images, refuse_unfinished_store
from train_head.runs.compatibility import holds_run, list_differences
from train_head.runs.read import Run
from train_head.runs.record import RunRecord, describe_config
from train_head.runs.tables import list_run_examples
from train_head.runs.write import shorten_path
from train_head.trials import Trial, plan_trials


@dataclass(frozen=True)
class Training:
    """A training whose options were checked against its store, and of which nothing is fitted yet."""

    config: TrainConfig
    """With what was settled: the store's path, the cut, the number of views."""
    store: FeatureStore
    split: Split
    trials: list[Trial]
    record: RunRecord

    def list_differences(self, run: Path) -> list[str]:
        """List how the run in a folder differs from this one; empty where it is this very run."""
        return list_differences(Run(run), self.record, list_run_examples(self.split))

    def is_completed(self) -> bool:
        """Return whether this very run is there already."""
        return holds_run(self.config.run) and not self.list_differences(self.config.run)


def prepare_training(config: TrainConfig) -> Training:
    """Check a training's options, open its store and plan its fits; fit and write nothing.

    Raises:
        UsageError, HeadstartError: it cannot be done.
    """
    check_arguments(config)
    store = open_training_store(config)
    config = replace(config, store=store.path, cut=store.fingerprint.cut, views=settle_views(store, config.views))
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
    """Opens the store that a training begins with.

    Where layers of the backbone are trained again, it is the last one before them, and means come after them.
    """
    if config.unfreeze_from == NOTHING:
        return open_store(config.store, config.cut, config.pool)
    from train_head.finetuning.backbone import choose_stored_cut

    return open_store(config.store, config.cut or choose_stored_cut(list_cuts(config.store), config.unfreeze_from))


def check_arguments(config: TrainConfig) -> None:
    """Raises UsageError where options contradict each other, or ask for what is not installed."""
    if not 0 < config.learning_rate < float("inf"):
        raise UsageError("--learning-rate", "a number above 0", f"{config.learning_rate:g}", "1e-4 is the default")
    if not 0 < config.fine_tune_learning_rate < float("inf"):
        got = f"{config.fine_tune_learning_rate:g}"
        raise UsageError("--fine-tune-learning-rate", "a number above 0", got, "1e-5 is the default")
    if config.momentum and config.optimizer is not OptimizerName.SGD:
        raise UsageError("--momentum", "--optimizer sgd", f"--optimizer {config.optimizer}", "Leave one of them out")
    if config.rank and config.solver is SolverName.FULL:
        raise UsageError("--rank", "--solver reduced or auto", "--solver full", "Leave one of them out")
    if config.tensorboard:
        require_extra("tensorboard", "--tensorboard", "train TENSORBOARD=1")


def settle_views(store: FeatureStore, asked: int | None) -> int:
    """Returns how many views are trained on; raises UsageError where the store has fewer than were asked for."""
    if asked is not None and asked > store.num_views:
        raise UsageError(
            "--views",
            f"at most {store.num_views}, as many as {store.path} holds",
            str(asked),
            f"Run `python -m extract --views {asked}` first",
        )
    return asked or store.num_views


def split_store(store: FeatureStore, config: TrainConfig) -> Split:
    """Split a store into training and validation pictures; raise HeadstartError where either has too few."""
    refuse_other_images(store, config.images)
    refuse_unfinished_store(store)
    return split_examples(store.examples, config.validation_split, store.images)
