"""Lets Optuna choose the heads, and give up those that are worse than others were by then."""

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
from train_head.solvers.checkpoint import remove_checkpoints
from train_head.solvers.history import Epoch
from train_head.sweep.config import DEFAULT_TRIALS, STUDY_FILE, MetricName, SweepConfig
from train_head.sweep.plan import Candidate, Measure, plan_candidate
from train_head.sweep.rows import Row, Status
from train_head.sweep.score import UNSCORED
from train_head.sweep.space import LOG_SCALED, SIGNIFICANT_DIGITS, Axis
from train_head.train import place_checkpoints

if TYPE_CHECKING:
    import optuna
    from optuna.storages.journal import JournalFileBackend

PRUNED_ATTRIBUTE = "pruned"

MAX_JOURNAL_BYTES = 2**28
_JOURNAL_START = b'{"op_code":'

FitFollowed = Callable[[Candidate, Callable[[Epoch], None]], Row]


class Search:
    """A study that is kept beside the runs, so that an interrupted sweep goes on with it."""

    def __init__(self, config: SweepConfig, axes: Sequence[Axis], measures: Sequence[Measure]) -> None:
        """Opens the study of these axes on these pictures, or begins one.

        Args:
            config: of the sweep.
            axes: what is tried.
            measures: what heads are measured on.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._config, self._axes = config, axes
        backend = _open_journal(config.out / STUDY_FILE)
        self._study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name=name_study(config, axes, measures),
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, config.epochs // 5)),
            load_if_exists=True,
        )
        self.num_trials = config.trials or DEFAULT_TRIALS

    def fit_all(self, fit: FitFollowed) -> Iterator[Row]:
        """Yields the rows of earlier trials, then fits what is left of the number that was asked for.

        Args:
            fit: fits a head, or finds its run; tells each epoch.
        """
        import optuna

        states = optuna.trial.TrialState
        finished = self._study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED))[: self.num_trials]
        for trial in finished:
            candidate = plan_candidate(self._config, self._read_values(trial.params))
            kept = trial.user_attrs.get(PRUNED_ATTRIBUTE)
            yield _make_pruned_row(candidate, Epoch(**kept)) if kept else fit(candidate, _follow_nothing)
        for broken in self._study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            self._study.enqueue_trial(broken.params)
            self._study.tell(broken.number, state=states.FAIL)
        for number in range(len(finished), self.num_trials):
            # A sampler of its own for each trial: one that goes on after an interruption draws what it would have.
            self._study.sampler = optuna.samplers.TPESampler(seed=_draw_seed(self._config.seed, number))
            yield self._fit_next(fit)

    def _fit_next(self, fit: FitFollowed) -> Row:
        import optuna

        trial = self._study.ask()
        drawn = {axis.name: _suggest(trial, axis) for axis in self._axes}
        candidate = plan_candidate(self._config, self._read_values(drawn))
        told: list[Epoch] = []

        def follow(epoch: Epoch) -> None:
            told.append(epoch)
            if epoch.is_finite:
                trial.report(self._measure_progress(epoch), epoch.epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned

        try:
            row = fit(candidate, follow)
        except optuna.TrialPruned:
            remove_checkpoints(place_checkpoints(candidate.config.run))
            last = replace(told[-1], seconds=sum(epoch.seconds for epoch in told))
            trial.set_user_attr(PRUNED_ATTRIBUTE, asdict(last))
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return _make_pruned_row(candidate, last)
        if not row.is_scored:
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            by_loss = self._config.metric is MetricName.VAL_LOSS
            self._study.tell(trial, -row.score.value if by_loss else row.score.value)
        return row

    def _measure_progress(self, epoch: Epoch) -> float:
        """Says how good a fit is by now; larger is better."""
        # Losses that differ by their L2 terms do not compare.
        by_accuracy = any(axis.name == "l2" for axis in self._axes)
        return epoch.val_accuracy if by_accuracy else -epoch.val_loss

    def _read_values(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Turns what the study keeps into values of options."""
        values = {}
        for axis in self._axes:
            found = parameters[axis.name]
            if axis.is_range:
                low, high = axis.values
                values[axis.name] = min(max(round_number(found), low), high)
            else:
                values[axis.name] = next(value for value in axis.values if str(value) == found)
        return values


def _open_journal(path: Path) -> JournalFileBackend:
    """Open the journal of a folder's studies, which the caller has locked; make it where it is missing.

    Raises:
        HeadstartError: it is another file.
    """
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
            *lines, last = data.split(b"\n")
            is_ours = all("op_code" in dict(json.loads(line)) for line in lines)
            if not is_ours or not last.startswith(_JOURNAL_START[: len(last)]):
                raise ValueError("something else")
        except (OSError, ValueError, TypeError, RecursionError) as error:
            advice = "Move it, or give another --out (SWEEP=)"
            raise HeadstartError(path, "the journal of an earlier sweep", str(error), advice) from error
        if last:
            # A kill came while a line was written.
            os.truncate(path, len(data) - len(last))
    return JournalFileBackend(str(path), HeldLock(str(path)))


def name_study(config: SweepConfig, axes: Sequence[Axis], measures: Sequence[Measure]) -> str:
    """Names a study by all that its values depend on: another search, or other pictures, is another study."""
    options = describe_config(config.make_training("", {}))
    base = {name: value for name, value in options.items() if name not in ("overwrite", "no_report", "tensorboard")}
    tried = [[axis.name, [str(value) for value in axis.values], axis.is_range] for axis in axes]
    digest = hashlib.sha256(json.dumps([config.metric, base, tried], default=str).encode())
    for measure in measures:
        digest.update(measure.store.fingerprint.digest.encode())
        for example in list_run_examples(measure.split):
            digest.update(f"{example.side}{example.label}{example.content_hash}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def round_number(value: float) -> Any:
    """Rounds to three digits that count; whole numbers stay as they are."""
    return value if isinstance(value, int) else float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def _suggest(trial: optuna.Trial, axis: Axis) -> Any:
    if not axis.is_range:
        return trial.suggest_categorical(axis.name, [str(value) for value in axis.values])
    low, high = axis.values
    if isinstance(low, int):
        return trial.suggest_int(axis.name, low, high, log=axis.name in LOG_SCALED)
    return trial.suggest_float(axis.name, low, high, log=axis.name in LOG_SCALED)


def _draw_seed(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")


def _follow_nothing(_: Epoch) -> None:
    """Follows no fit: its trial was told before."""


def _make_pruned_row(candidate: Candidate, last: Epoch) -> Row:
    """Makes a row of the last epoch, whose seconds are those of all of them."""
    # The history's loss has the L2 term in it, which the other rows' has not.
    loss = None if candidate.config.l2 else last.val_loss
    known = (last.val_accuracy, loss, last.epoch, round(last.seconds, 3))
    return Row(candidate.name, Status.PRUNED, candidate.values, UNSCORED, *known)
