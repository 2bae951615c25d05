"""Preparation of a training: check the options, open the store, plan the fits. Nothing is fitted or written."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from base.cluster import LOCAL, check_address
from base.errors import HeadstartError, UsageError, require_extra
from base.invocation import format_command, format_options
from base.terminal import Console, ConsoleOptions, format_list
from base.urls import parse_location
from features.cuts import list_cuts, open_store
from features.joined import measure_scales, rescale_store
from features.options import Pool, split_cuts
from features.presets import PRESETS
from features.store import FeatureStore
from train_head.config import NO_FINE_TUNING, HeadConfig, OptimizerName, SolverName, SplitName, TrainConfig
from train_head.data.split import FOLDER_RULE, Split, hash_views, split_examples
from train_head.data.summary import check_extraction, check_images_folder
from train_head.evaluation.neighbours import find_groups
from train_head.runs.read import Run
from train_head.runs.record import DEFAULTS, RUN_FILE, UNRECORDED_OPTIONS, RunRecord, describe_config, recover_run
from train_head.runs.tables import RunExample, list_run_examples
from train_head.runs.write import shorten_path
from train_head.trials import Trial, plan_trials

_NOT_COMPARED = {*UNRECORDED_OPTIONS, "overwrite", "no_report", "tensorboard"}
"""Options that may differ between two trainings of the same run."""
RIDGE_OPTIONS: dict[str, Any] = {
    "units": 0,
    **{
        name: DEFAULTS[name]
        for name in ("epochs", "batch_size", "dropout", "l2", "learning_rate", "optimizer", "momentum", "patience")
    },
}
"""Recorded values of the options that the solver ridge ignores."""
_UNRECORDED_CUT = ("cut", "")
"""Recorded option `cut` of older runs on a store with one cut. The fingerprint identifies the cut of such a run."""


@dataclass(frozen=True)
class Training:
    """A training whose options were checked against its store. Nothing is fitted yet."""

    config: TrainConfig
    """The options, with the store's path, the cut and the number of views resolved."""
    store: FeatureStore
    split: Split
    trials: list[Trial]
    record: RunRecord

    def list_differences(self) -> list[str]:
        """List the differences between the run in the folder and this training; empty if they are equal."""
        return list_differences(Run(self.config.run), self.record, list_run_examples(self.split))

    def is_completed(self) -> bool:
        """Return whether the folder already contains the run of this training."""
        return holds_run(self.config.run) and not self.list_differences()


def prepare_training(config: TrainConfig) -> Training:
    """Check the options of a training, open its store, split the pictures and plan the fits.

    Raises:
        UsageError: an option is invalid.
        HeadstartError: the store or its pictures cannot be trained on.
    """
    check_arguments(config)
    config = drop_ignored_options(config)
    store = open_training_store(config)
    split = split_store(store, config)
    store = scale_store(store, split)
    config = replace(config, store=store.path, cut=store.fingerprint.cut, views=resolve_num_views(store, config.views))
    origin = store.origin
    record = RunRecord(
        config=describe_config(config),
        solver="",
        store=shorten_path(store.path, config.run),
        fingerprint=store.fingerprint.digest,
        feature_shape=list(store.feature_shape),
        classes=split.classes,
        is_multi_label=split.is_multi_label,
        split_rule=split.rule,
        images=parse_location(store.images_folder).name,
        weights=Path(origin.weights_file).name if origin.weights_name == "file" else origin.weights_name,
        weights_sha256=store.fingerprint.weights_sha256,
        scales=list(store.scales),
        views_sha256=hash_views(store, split, config.views),
    )
    return Training(config, store, split, plan_trials(config, split), record)


def open_training_store(config: TrainConfig) -> FeatureStore:
    """Open the store of a training. Fine-tuning needs the last cut at or before `unfreeze_from`, without pooling.

    Several cut layers are joined without scales, which need the split; see `scale_store`.

    Raises:
        FeatureStoreError: the store cannot be read.
    """
    cut, pool = config.cut, config.pool
    if config.unfreeze_from != NO_FINE_TUNING:
        from train_head.finetuning.backbone import choose_stored_cut

        cut, pool = cut or choose_stored_cut(list_cuts(config.store), config.unfreeze_from), Pool.NONE
    try:
        return open_store(config.store, cut, pool, [1.0] * len(split_cuts(cut)))
    except UsageError as error:
        if error.where == "--cut" and cut == PRESETS[config.preset].train.get("cut"):
            raise _build_preset_error(config) from error
        raise


def _build_preset_error(config: TrainConfig) -> UsageError:
    """Return the error for a store without the cut layers of the preset."""
    stored = list_cuts(config.store)
    first = open_store(config.store, stored[0] if stored else "")
    folder = config.images or first.images_folder or "FOLDER"
    place = config.store.with_name(f"{config.store.name}-{config.preset}")
    command = format_command("extract", "--images", folder, "--store", place, "--preset", config.preset)
    return UsageError(
        f"--preset {config.preset}",
        f"a store with the cut layers {config.cut}",
        f"{', '.join(stored) or first.fingerprint.cut} in {config.store}",
        f"Run `{command}`, and train on that store",
    )


def describe_other_features(config: TrainConfig, store: FeatureStore) -> str:
    """Describe how the features of a store differ from those that the preset extracts; empty if they do not."""
    found = {"image_size": store.fingerprint.image_size, "pool": store.fingerprint.pool.split()[0]}
    differences = [
        f"{name.replace('_', ' ')} {found[name]} instead of {value}"
        for name, value in PRESETS[config.preset].extract.items()
        if name in found and found[name] != value
    ]
    return f"{store.path}: extracted with {format_list(differences)}" if differences else ""


def scale_store(store: FeatureStore, split: Split) -> FeatureStore:
    """Give each of several cut layers unit mean square on the training pictures; return another store unchanged."""
    return rescale_store(store, measure_scales(store, split.train)) if store.parts else store


def check_arguments(config: TrainConfig) -> None:
    """Raise UsageError for an invalid or contradictory option, or for a package that is not installed."""
    for option, rate, default in (
        ("--learning-rate", config.learning_rate, "1e-4"),
        ("--fine-tune-learning-rate", config.fine_tune_learning_rate, "1e-5"),
    ):
        if not 0 < rate < math.inf:
            raise UsageError(option, "a number above 0", f"{rate:g}", f"Leave it out for the default, {default}")
    if config.momentum and config.optimizer is not OptimizerName.SGD:
        got = f"{config.momentum:g} with the optimizer {config.optimizer}"
        raise UsageError("--momentum", "0, or the optimizer sgd", got, "Leave it out, or use the optimizer sgd")
    if config.rank and config.solver is SolverName.FULL:
        got = f"{config.rank} with the solver full"
        raise UsageError("--rank", "the solver reduced, ridge or auto", got, "Leave it out, or use the solver reduced")
    if config.distribute != LOCAL:
        check_address("--distribute", config.distribute)
        if config.solver is SolverName.FULL:
            got, advice = f"{config.distribute} with the solver full", "Leave it out, or use the solver reduced"
            raise UsageError("--distribute", "the solver reduced, ridge or auto", got, advice)
    if config.unfreeze_from != NO_FINE_TUNING and config.solver is SolverName.RIDGE:
        got = f"{config.unfreeze_from} with the solver ridge"
        raise UsageError("--unfreeze-from", "the solver reduced, full or auto", got, "Use the solver reduced")
    if config.unfreeze_from != NO_FINE_TUNING and len(split_cuts(config.cut)) > 1:
        advice = "Give one cut layer, or leave out --unfreeze-from"
        raise UsageError("--cut", "one cut layer to fine-tune from", config.cut, advice)
    if config.tensorboard:
        require_extra("tensorboard", "--tensorboard", "train TENSORBOARD=1")


def get_ignored_options(config: HeadConfig) -> dict[str, Any]:
    """Return the options that have no effect on the head, with the values that a run records."""
    if config.solver is SolverName.RIDGE:
        return RIDGE_OPTIONS
    # Dropout is that of the hidden units.
    return {} if config.units else {"dropout": DEFAULTS["dropout"]}


def describe_ignored_options(config: HeadConfig) -> str:
    """Describe the options that have no effect although they differ from their defaults; return "" without any."""
    ignored = get_ignored_options(config).items()
    given = [name.replace("_", " ") for name, value in ignored if getattr(config, name) not in (value, DEFAULTS[name])]
    subject = "the solver ridge" if config.solver is SolverName.RIDGE else "a head with 0 units"
    return f"{subject} ignores {format_list(given)}" if given else ""


def drop_ignored_options(config: TrainConfig) -> TrainConfig:
    """Return the options with those that have no effect at fixed values, so that they do not affect the run."""
    return replace(config, **get_ignored_options(config))


def resolve_num_views(store: FeatureStore, requested: int | None) -> int:
    """Return the number of views to train on; raise UsageError if the store has fewer than requested."""
    if requested is not None and requested > store.num_views:
        expected = f"at most {store.num_views}, the number of views in {store.path}"
        raise UsageError(
            "--views", expected, str(requested), f"Extract again with {format_options('extract', {'views': requested})}"
        )
    return requested or store.num_views


def split_store(store: FeatureStore, config: TrainConfig) -> Split:
    """Split a store into training and validation pictures; raise HeadstartError if either has too few."""
    check_images_folder(store, config.images)
    check_extraction(store)
    find = partial(find_groups, store, console=Console(ConsoleOptions(quiet=True)))
    groups = find if config.split is SplitName.GROUP else None
    split = split_examples(
        store.examples, config.validation_split, store.images, groups, is_multi_label=store.is_multi_label
    )
    labels = store.contents.labels
    if labels.split_column and split.rule == FOLDER_RULE:
        return replace(split, rule=f"column {labels.split_column} of {labels.table}")
    return split


def holds_run(folder: Path) -> bool:
    """Return whether a folder contains a run; raise HeadstartError if it is a file or contains only other files."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise HeadstartError(folder, "a folder for the run", "a file", "Give another run folder")
    recover_run(folder)
    if os.path.lexists(folder / RUN_FILE):
        return True
    # Not counted: the lock, remains of a killed command, and a file system's lost+found at a mount point.
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if any(name != "lost+found" and not name.startswith(".") for name in names):
        raise HeadstartError(folder, "an empty folder", "a folder with other files", "Give another run folder")
    return False


def list_differences(run: Run, record: RunRecord, examples: Sequence[RunExample]) -> list[str]:
    """List the differences between a run and the requested one; empty if they are equal.

    Raises:
        HeadstartError: a file of the run is damaged. Files are checked only if the options and the features agree.
    """

    def show(value: object) -> str:
        return "unset" if value is None else str(value)

    requested = record.config
    differences = [
        f"{name} {show(theirs)} instead of {show(requested.get(name))}"
        for name, theirs in {**DEFAULTS, **run.record.config}.items()
        if name not in _NOT_COMPARED and theirs != requested.get(name) and (name, theirs) != _UNRECORDED_CUT
    ]
    if run.record.fingerprint != record.fingerprint:
        differences.append("features with another fingerprint")
    if differences:
        return differences
    run.check_files()
    if set(run.read_examples()) != set(examples):
        return ["other pictures"]
    return ["other views of the same pictures"] if run.record.views_sha256 != record.views_sha256 else []
