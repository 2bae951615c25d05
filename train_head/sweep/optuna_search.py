"""Search with Optuna: it chooses the heads, and gives up those that are worse than others were by then."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import HeadstartError
from base.files import read_regular_file
from train_head.runs.record import describe_config
from train_head.runs.tables import list_run_examples
from train_head.solvers import ignore_epoch
from train_head.solvers.checkpoint import remove_checkpoints
from train_head.solvers.history import Epoch
from train_head.sweep.config import DEFAULT_TRIALS, STUDY_FILE, MetricName, SweepConfig
from train_head.sweep.plan import Candidate, Dataset, plan_candidate
from train_head.sweep.rows import UNSCORED, Row, Status
from train_head.sweep.space import LOG_SCALED, SIGNIFICANT_DIGITS, Axis
from train_head.train import get_checkpoint_folder

if TYPE_CHECKING:
    import optuna
    from optuna.storages.journal import JournalFileBackend

PRUNED_ATTRIBUTE = "pruned"
MAX_JOURNAL_BYTES = 2**28
_JOURNAL_START = b'{"op_code":'

Fit = Callable[[Candidate, Callable[[Epoch], None]], Row]


def open_study(config: SweepConfig, axes: Sequence[Axis], datasets: Sequence[Dataset]) -> optuna.Study:
    """Open the study of these axes on these pictures, or begin one; the caller has locked the sweep's folder."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        storage=optuna.storages.JournalStorage(_open_journal(config.out / STUDY_FILE)),
        study_name=name_study(config, axes, datasets),
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, config.epochs // 5)),
        load_if_exists=True,
    )


def search_heads(study: optuna.Study, config: SweepConfig, axes: Sequence[Axis], fit: Fit) -> Iterator[Row]:
    """Yield the rows of earlier trials, then fit the rest of the number that was asked for."""
    import optuna

    states, num_trials = optuna.trial.TrialState, config.trials or DEFAULT_TRIALS
    finished = study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED))[:num_trials]
    for trial in finished:
        candidate = plan_candidate(config, _read_values(axes, trial.params))
        pruned = trial.user_attrs.get(PRUNED_ATTRIBUTE)
        yield _make_pruned_row(candidate, Epoch(**pruned)) if pruned else fit(candidate, ignore_epoch)
    for broken in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        study.enqueue_trial(broken.params)
        study.tell(broken.number, state=states.FAIL)
    for number in range(len(finished), num_trials):
        # A sampler of its own for each trial: one that goes on after an interruption draws what it would have.
        seed = hashlib.sha256(f"{config.seed}/{number}".encode()).digest()[:4]
        study.sampler = optuna.samplers.TPESampler(seed=int.from_bytes(seed, "big"))
        yield _fit_next(study, config, axes, fit)


def _fit_next(study: optuna.Study, config: SweepConfig, axes: Sequence[Axis], fit: Fit) -> Row:
    import optuna

    trial, pruned = study.ask(), optuna.trial.TrialState.PRUNED
    candidate = plan_candidate(config, _read_values(axes, {axis.name: _suggest(trial, axis) for axis in axes}))
    # Losses that differ by their L2 terms do not compare.
    by_accuracy = any(axis.name == "l2" for axis in axes)
    epochs: list[Epoch] = []

    def on_epoch_end(epoch: Epoch) -> None:
        epochs.append(epoch)
        if epoch.is_finite:
            trial.report(epoch.val_accuracy if by_accuracy else -epoch.val_loss, epoch.epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

    try:
        row = fit(candidate, on_epoch_end)
    except optuna.TrialPruned:
        remove_checkpoints(get_checkpoint_folder(candidate.config.run))
        last = replace(epochs[-1], seconds=sum(epoch.seconds for epoch in epochs))
        trial.set_user_attr(PRUNED_ATTRIBUTE, asdict(last))
        study.tell(trial, state=pruned)
        return _make_pruned_row(candidate, last)
    if row.is_scored:
        study.tell(trial, -row.score.metric if config.metric is MetricName.VAL_LOSS else row.score.metric)
    else:
        study.tell(trial, state=pruned)
    return row


def name_study(config: SweepConfig, axes: Sequence[Axis], datasets: Sequence[Dataset]) -> str:
    """Name a study by all that its values depend on: another search, or other pictures, is another study."""
    options = describe_config(config.make_train_config("", {}))
    base = {name: value for name, value in options.items() if name not in ("overwrite", "no_report", "tensorboard")}
    tried = [[axis.name, [str(value) for value in axis.values], axis.is_range] for axis in axes]
    digest = hashlib.sha256(json.dumps([config.metric, base, tried], default=str).encode())
    for dataset in datasets:
        digest.update(dataset.store.fingerprint.digest.encode())
        for example in list_run_examples(dataset.split):
            digest.update(f"{example.split}{example.label}{example.content_hash}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def round_number(value: float) -> Any:
    """Round to three significant digits; whole numbers stay as they are."""
    return value if isinstance(value, int) else float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def _open_journal(path: Path) -> JournalFileBackend:
    """Open the journal of a folder's studies; raise HeadstartError where it is another file."""
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    class HeldLock(JournalFileOpenLock):
        """The sweep holds its folder's lock: one of the journal's own would outlive a kill by half a minute."""

        def acquire(self) -> bool:
            return True

        def release(self) -> None:
            pass

    if os.path.lexists(path):
        try:
            data = read_regular_file(path, MAX_JOURNAL_BYTES)
            if data[: len(_JOURNAL_START)] != _JOURNAL_START[: len(data)]:
                raise ValueError("another file")
        except (OSError, ValueError) as error:
            advice = "Move it, or give another --out (SWEEP=)"
            raise HeadstartError(path, "the journal of an earlier sweep", str(error), advice) from error
        if not data.endswith(b"\n"):
            # A kill came while a line was written.
            os.truncate(path, data.rfind(b"\n") + 1)
    return JournalFileBackend(str(path), HeldLock(str(path)))


def _read_values(axes: Sequence[Axis], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options' values that the study's parameters represent."""

    def read(axis: Axis, found: Any) -> Any:
        if axis.is_range:
            return min(max(round_number(found), axis.values[0]), axis.values[1])
        return next(value for value in axis.values if str(value) == found)

    return {axis.name: read(axis, parameters[axis.name]) for axis in axes}


def _suggest(trial: optuna.Trial, axis: Axis) -> Any:
    if not axis.is_range:
        return trial.suggest_categorical(axis.name, [str(value) for value in axis.values])
    suggest = trial.suggest_int if isinstance(axis.values[0], int) else trial.suggest_float
    return suggest(axis.name, *axis.values, log=axis.name in LOG_SCALED)


def _make_pruned_row(candidate: Candidate, last: Epoch) -> Row:
    """Make a row of the last epoch, whose seconds are those of all epochs."""
    # The history's loss includes the L2 term, which the losses of other rows do not.
    loss = None if candidate.config.l2 else last.val_loss
    known = (last.val_accuracy, loss, last.epoch, round(last.seconds, 3))
    return Row(candidate.name, Status.PRUNED, candidate.values, UNSCORED, *known)
