"""The fits after the first: each runs once, even after an interruption, and runs again if its inputs changed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from base.terminal import Console, ConsoleOptions
from features.store import FeatureStore
from tests.train_head.fits import make_fit
from train_head.config import TrainConfig
from train_head.data.split import Split, split_examples
from train_head.solvers import Fit, Problem
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.history import EarlyStopping, Epoch
from train_head.trials import Outcome, Trial, fit_first, fit_others, plan_trials

pytestmark = pytest.mark.unit


class RecordingSolver:
    """Solver that records its problems, and raises KeyboardInterrupt in one call."""

    def __init__(self, name: str = "fit_recording", interrupt_at: int = 0) -> None:
        self.__name__ = name
        self.solved: list[tuple[int, str]] = []
        self.interrupt_at = interrupt_at

    def __call__(self, problem: Problem, checkpoint: Checkpoint, console: Console) -> Fit:
        self.solved.append((problem.config.seed, problem.split.rule))
        if len(self.solved) == self.interrupt_at:
            raise KeyboardInterrupt
        probabilities = np.zeros((len(problem.split.validation), 2), np.float32)
        # The first `seed % 10` pictures are classified as cats, so that accuracies differ between seeds.
        probabilities[:, 1] = 1
        probabilities[: problem.config.seed % 10, 0] = 2
        return make_fit(probabilities, [0.5], 1)


@pytest.fixture
def five(two_classes: FeatureStore) -> list[Trial]:
    """Five trials: two repeats, and three folds of the first repeat."""
    split = split_examples(two_classes.examples, 0.2)
    trials = plan_trials(TrainConfig(Path("store"), Path("run"), seed=40, repeats=2, folds=3), split)[:5]
    assert [trial.name for trial in trials][1:3] == ["repeat 1", "fold 0 of repeat 0"]
    return trials


def list_solved(trials: Sequence[Trial]) -> list[tuple[int, str]]:
    return [(trial.config.seed, trial.split.rule) for trial in trials]


def expect_outcomes(trials: Sequence[Trial]) -> list[Outcome]:
    """Compute the outcomes of `RecordingSolver`."""
    outcomes = []
    for trial in trials:
        num_cats = trial.config.seed % 10
        right = [
            (example.label == "cats") == (place < num_cats) for place, example in enumerate(trial.split.validation)
        ]
        outcomes.append(Outcome(sum(right) / len(right), 1, None, "0.5 (validation: 0.25)"))
    return outcomes


def test_fit_others_fits_all_trials_but_the_first_in_order(
    five: list[Trial], two_classes: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solve = RecordingSolver()
    outcomes = list(fit_others(five, two_classes, solve, tmp_path / "folder", Console()))
    assert outcomes == expect_outcomes(five[1:])
    assert solve.solved == list_solved(five[1:])
    lines = capsys.readouterr().err.splitlines()
    for line, trial, outcome in zip(lines, five[1:], outcomes, strict=True):
        values = (trial.name, f"{outcome.val_accuracy:.4f}", str(len(trial.split.train)))
        assert all(value in line for value in values)
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [f"outcome-{n}.json" for n in (1, 2, 3, 4)]


def test_fit_others_of_one_trial_fits_nothing(
    five: list[Trial], two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    solve = RecordingSolver()
    assert list(fit_others(five[:1], two_classes, solve, tmp_path / "folder", quiet)) == []
    assert (solve.solved, list(tmp_path.iterdir())) == ([], [])


def test_fit_others_resumed_starts_with_the_unfinished_trial(
    five: list[Trial], two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    first = RecordingSolver(interrupt_at=2)
    with pytest.raises(KeyboardInterrupt):
        list(fit_others(five, two_classes, first, tmp_path, quiet))
    assert first.solved == list_solved(five[1:3])
    assert [path.name for path in tmp_path.iterdir()] == ["outcome-1.json"]
    again = RecordingSolver()
    assert list(fit_others(five, two_classes, again, tmp_path, quiet)) == expect_outcomes(five[1:])
    assert again.solved == list_solved(five[2:])
    third = RecordingSolver()
    assert list(fit_others(five, two_classes, third, tmp_path, quiet)) == expect_outcomes(five[1:])
    assert third.solved == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        pytest.param({"epochs": 21}, "fit_recording", id="epochs"),
        pytest.param({"rank": 5}, "fit_recording", id="rank"),
        pytest.param({}, "fit_differently", id="solver"),
    ],
)
def test_fit_others_with_another_option_or_solver_fits_all_again(
    five: list[Trial], two_classes: FeatureStore, tmp_path: Path, quiet: Console, change: dict[str, int], name: str
) -> None:
    list(fit_others(five, two_classes, RecordingSolver(), tmp_path, quiet))
    solve = RecordingSolver(name)
    others = [replace(trial, config=replace(trial.config, **change)) for trial in five]  # type: ignore[arg-type]
    list(fit_others(others, two_classes, solve, tmp_path, quiet))
    assert solve.solved == list_solved(five[1:])


def test_fit_others_with_options_that_do_not_affect_fits_fits_nothing_again(
    five: list[Trial], two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    list(fit_others(five, two_classes, RecordingSolver(), tmp_path, quiet))
    change = {"run": Path("elsewhere"), "store": Path("moved"), "no_report": True, "overwrite": True, "repeats": 9}
    others = [replace(trial, config=replace(trial.config, **change)) for trial in five]  # type: ignore[arg-type]
    solve = RecordingSolver()
    assert list(fit_others(others, two_classes, solve, tmp_path, quiet)) == expect_outcomes(five[1:])
    assert solve.solved == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda split: Split(split.train[1:], split.validation, split.rule), id="missing-picture"),
        pytest.param(lambda split: Split(split.train[::-1], split.validation, split.rule), id="other-order"),
        pytest.param(
            lambda split: Split(split.train[:-1], [split.train[-1], *split.validation], split.rule), id="moved-picture"
        ),
        pytest.param(
            lambda split: Split([split.train[0]._replace(label="dogs"), *split.train[1:]], split.validation, ""),
            id="other-class",
        ),
    ],
)
def test_fit_others_with_another_split_fits_that_trial_again(
    five: list[Trial],
    two_classes: FeatureStore,
    tmp_path: Path,
    quiet: Console,
    change: Callable[[Split], Split],
) -> None:
    list(fit_others(five, two_classes, RecordingSolver(), tmp_path, quiet))
    five[3] = replace(five[3], split=change(five[3].split))
    solve = RecordingSolver()
    list(fit_others(five, two_classes, solve, tmp_path, quiet))
    assert solve.solved == list_solved([five[3]])


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("{", id="truncated"),
        pytest.param("[1, 2]", id="list"),
        pytest.param("null", id="null"),
        pytest.param('{"val_accuracy": 1.0}', id="no-key"),
        pytest.param("\udcff\udcfe", id="not-utf-8"),
    ],
)
def test_fit_others_with_a_damaged_outcome_fits_that_trial_again(
    five: list[Trial], two_classes: FeatureStore, tmp_path: Path, quiet: Console, text: str
) -> None:
    expected = list(fit_others(five, two_classes, RecordingSolver(), tmp_path, quiet))
    intact = (tmp_path / "outcome-3.json").read_bytes()
    (tmp_path / "outcome-3.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    solve = RecordingSolver()
    assert list(fit_others(five, two_classes, solve, tmp_path, quiet)) == expected
    assert solve.solved == list_solved([five[3]])
    assert (tmp_path / "outcome-3.json").read_bytes() == intact


@pytest.mark.parametrize("change", [{"extra": 1}, {"key": "another"}, {"kept_epoch": None}])
def test_fit_others_with_an_outcome_of_other_fields_fits_that_trial_again(
    five: list[Trial], two_classes: FeatureStore, tmp_path: Path, quiet: Console, change: dict[str, object]
) -> None:
    expected = list(fit_others(five, two_classes, RecordingSolver(), tmp_path, quiet))
    values = json.loads((tmp_path / "outcome-1.json").read_text())
    assert {name: value for name, value in values.items() if name != "key"} == asdict(expected[0])
    values = {name: value for name, value in (values | change).items() if value is not None}
    (tmp_path / "outcome-1.json").write_text(json.dumps(values))
    solve = RecordingSolver()
    assert list(fit_others(five, two_classes, solve, tmp_path, quiet)) == expected
    assert solve.solved == list_solved([five[1]])


def test_fit_others_without_a_folder_continues(
    five: list[Trial], two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    (tmp_path / "folder").write_text("a file")
    assert list(fit_others(five, two_classes, RecordingSolver(), tmp_path / "folder", quiet)) == expect_outcomes(
        five[1:]
    )


def save_end(problem: Problem, checkpoint: Checkpoint, console: Console) -> Fit:
    """Log whether the checkpoint has a history, and save a final state to it, without fitting."""
    found, _ = checkpoint.load(0, console)
    console.info("resumed" if found.history else "started")
    stopping = EarlyStopping(
        0, [Epoch(1, 0.5, 0.5, 0.25, 0.5, 0.1)], make_fit(np.zeros((0, 2), np.float32), [0.5], 1).weights
    )
    checkpoint.save_if_due(lambda: [np.array(1)], stopping, 1)
    return make_fit(np.eye(2, dtype=np.float32), [0.5], 1)


@pytest.mark.parametrize("num_trials", [1, 5])
def test_fit_first_saves_its_final_state(
    five: list[Trial],
    two_classes: FeatureStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    num_trials: int,
) -> None:
    console = Console(ConsoleOptions())
    for _ in range(2):
        assert fit_first(five[:num_trials], two_classes, save_end, tmp_path / "folder", console).kept_epoch == 1
    assert capsys.readouterr().err.splitlines() == ["started", "resumed"]


def test_fit_others_removes_checkpoints_of_finished_trials(
    five: list[Trial], two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    seen: Counter[str] = Counter()

    def solve(problem: Problem, checkpoint: Checkpoint, console: Console) -> Fit:
        fit = RecordingSolver()(problem, checkpoint, console)
        seen.update(path.name for path in tmp_path.glob("*.npz"))
        (tmp_path / f"fit-{len(list(tmp_path.glob('outcome-*'))) + 1}.npz").write_bytes(b"checkpoint")
        return fit

    list(fit_others(five, two_classes, solve, tmp_path, quiet))
    assert seen == Counter()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"outcome-{n}.json" for n in (1, 2, 3, 4)]
