"""Search with Optuna, which chooses the heads and stops those that are worse than others at the same epoch."""

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
from train_head.sweep.config import ADVICE, DEFAULT_TRIALS, STUDY_FILE, MetricName, SweepConfig
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
    """Open or create the study of these axes and datasets; the caller must hold the lock of the sweep's folder."""
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
    """Yield the rows of earlier trials, then fit and yield the remaining ones."""
    import optuna

    states, num_trials = optuna.trial.TrialState, config.trials or DEFAULT_TRIALS
    finished = study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED))[:num_trials]
    for trial in finished:
        candidate = plan_candidate(config, _read_values(axes, trial.params))
        pruned = trial.user_attrs.get(PRUNED_ATTRIBUTE)
        yield _make_pruned_row(candidate, Epoch(**pruned)) if pruned else fit(candidate, ignore_epoch)
    for interrupted in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        study.enqueue_trial(interrupted.params)
        study.tell(interrupted.number, state=states.FAIL)
    for number in range(len(finished), num_trials):
        # With one sampler per trial, a search that continues after an interruption draws the same values.
        seed = hashlib.sha256(f"{config.seed}/{number}".encode()).digest()[:4]
        study.sampler = optuna.samplers.TPESampler(seed=int.from_bytes(seed, "big"))
        yield _fit_next(study, config, axes, fit)


def _fit_next(study: optuna.Study, config: SweepConfig, axes: Sequence[Axis], fit: Fit) -> Row:
    import optuna

    trial, pruned = study.ask(), optuna.trial.TrialState.PRUNED
    candidate = plan_candidate(config, _read_values(axes, {axis.name: _suggest(trial, axis) for axis in axes}))
    # Losses with different L2 terms cannot be compared.
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
    """Return a digest of everything that the study depends on: options, axes, features and pictures."""
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
    """Round a float to three significant digits; return an integer unchanged."""
    return value if isinstance(value, int) else float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def _open_journal(path: Path) -> JournalFileBackend:
    """Open the journal of a folder's studies; raise HeadstartError if the file is not a journal."""
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    class HeldLock(JournalFileOpenLock):
        """Lock that does nothing: the sweep locks its folder, and a lock of the journal would survive a kill."""

        def acquire(self) -> bool:
            return True

        def release(self) -> None:
            pass

    if os.path.lexists(path):
        try:
            data = read_regular_file(path, MAX_JOURNAL_BYTES)
            if data[: len(_JOURNAL_START)] != _JOURNAL_START[: len(data)]:
                raise ValueError("another kind of file")
        except (OSError, ValueError) as error:
            raise HeadstartError(path, "the journal of an earlier sweep", str(error), ADVICE) from error
        if not data.endswith(b"\n"):
            # The process was killed while it wrote the last line.
            os.truncate(path, data.rfind(b"\n") + 1)
    return JournalFileBackend(str(path), HeldLock(str(path)))


def _read_values(axes: Sequence[Axis], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the parameters of a trial to values of options."""

    def read(axis: Axis, parameter: Any) -> Any:
        if axis.is_range:
            return min(max(round_number(parameter), axis.values[0]), axis.values[1])
        return next(value for value in axis.values if str(value) == parameter)

    return {axis.name: read(axis, parameters[axis.name]) for axis in axes}


def _suggest(trial: optuna.Trial, axis: Axis) -> Any:
    if not axis.is_range:
        return trial.suggest_categorical(axis.name, [str(value) for value in axis.values])
    suggest = trial.suggest_int if isinstance(axis.values[0], int) else trial.suggest_float
    return suggest(axis.name, *axis.values, log=axis.name in LOG_SCALED)


def _make_pruned_row(candidate: Candidate, last: Epoch) -> Row:
    """Make the row of a stopped head from its last epoch, whose `seconds` are those of all epochs."""
    # The loss in the history includes the L2 term; the losses of other rows do not.
    loss = None if candidate.config.l2 else last.val_loss
    results = (last.val_accuracy, loss, last.epoch, round(last.seconds, 3))
    return Row(candidate.name, Status.PRUNED, candidate.values, UNSCORED, *results)
