"""Repeats and folds: which fits there are, who is held out, and going on after an interruption."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from features.console import Console, ConsoleOptions
from features.errors import UsageError
from features.store import Example, FeatureStore
from tests.train_head.made import list_paths, make_example, place_hash
from train_head.config import TrainConfig
from train_head.head import Array, HeadWeights
from train_head.solvers import Fit, Problem
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.history import Epoch, Watch
from train_head.split import Split, split_examples
from train_head.trials import (
    Outcome,
    Trial,
    fit_first,
    fit_others,
    judge_fit,
    plan_trials,
    split_into_folds,
    summarize_trials,
)

WEIGHTS = HeadWeights(*(np.zeros(shape, np.float32) for shape in ((2, 1), (1,), (1, 1), (1,))))
RULE = "folder validation/"


def make_split(counts: dict[str, int]) -> Split:
    """Of pictures that are all different: {"train/cats": 3, "validation/cats": 2}."""
    examples = [make_example(path) for path in list_paths(counts)]
    return Split([e for e in examples if e.split == "train"], [e for e in examples if e.split == "validation"], RULE)


def make_config(**options: int) -> TrainConfig:
    return replace(TrainConfig(Path("store"), Path("run"), seed=40), **options)  # type: ignore[arg-type]


def list_held_out(folds: Sequence[Split]) -> list[set[bytes]]:
    return [{example.content_hash for example in fold.validation} for fold in folds]


UNEVEN = make_split(
    {"train/cats": 11, "train/dogs": 7, "train/owls": 4, "validation/cats": 3, "validation/dogs": 2}
    | {"validation/owls": 2}
)


@pytest.mark.parametrize(
    ("repeats", "folds", "names", "seeds"),
    [
        pytest.param(1, 0, ["repeat 0"], [40], id="one"),
        pytest.param(3, 0, ["repeat 0", "repeat 1", "repeat 2"], [40, 41, 42], id="repeats"),
        pytest.param(1, 2, ["repeat 0", "fold 0 of repeat 0", "fold 1 of repeat 0"], [40] * 3, id="folds"),
        pytest.param(
            2,
            2,
            ["repeat 0", "repeat 1"]
            + ["fold 0 of repeat 0", "fold 1 of repeat 0", "fold 0 of repeat 1", "fold 1 of repeat 1"],
            [40, 41, 40, 40, 41, 41],
            id="both",
        ),
    ],
)
def test_plan_trials_names_and_seeds_repeats_first_then_folds(
    repeats: int, folds: int, names: list[str], seeds: list[int]
) -> None:
    config = make_config(repeats=repeats, folds=folds)
    trials = plan_trials(config, UNEVEN)
    assert [trial.name for trial in trials] == names
    assert [trial.config for trial in trials] == [replace(config, seed=seed) for seed in seeds]
    assert trials[0].config == config
    held_out = split_into_folds(UNEVEN, folds) if folds else []
    assert [trial.split for trial in trials] == [UNEVEN] * repeats + held_out * repeats


@pytest.mark.parametrize("num_folds", [2, 3, 5, 6])
def test_split_into_folds_holds_out_every_picture_once_and_trains_on_the_others(num_folds: int) -> None:
    folds = split_into_folds(UNEVEN, num_folds)
    assert [fold.rule for fold in folds] == [f"fold {number} of {num_folds}" for number in range(1, num_folds + 1)]
    everything = [example.path for example in UNEVEN.train + UNEVEN.validation]
    assert sorted(e.path for fold in folds for e in fold.validation) == sorted(everything)
    for fold in folds:
        held_out = {example.path for example in fold.validation}
        assert [example.path for example in fold.train] == [path for path in everything if path not in held_out]
        assert fold.classes == UNEVEN.classes
        assert fold.count_leaks() == 0


@pytest.mark.parametrize("num_folds", [2, 3, 4, 5, 6])
def test_split_into_folds_differ_by_at_most_one_picture_of_a_class_and_in_all(num_folds: int) -> None:
    folds = split_into_folds(UNEVEN, num_folds)
    for label, total in (("cats", 14), ("dogs", 9), ("owls", 6)):
        counts = [sum(example.label == label for example in fold.validation) for fold in folds]
        assert sum(counts) == total
        assert max(counts) - min(counts) <= 1
    sizes = [len(fold.validation) for fold in folds]
    assert max(sizes) - min(sizes) <= 1


def test_split_into_folds_deals_contents_out_in_the_order_of_their_hashes() -> None:
    contents = {"train/cats/a": 0.5, "train/cats/b": 0.1, "train/cats/c": 0.9, "validation/cats/d": 0.3}
    contents |= {"train/dogs/a": 0.4, "train/dogs/b": 0.2, "validation/dogs/c": 0.8}
    examples = [make_example(path, place_hash(place)) for path, place in contents.items()]
    split = Split([e for e in examples if e.split == "train"], [e for e in examples if e.split != "train"], RULE)
    folds = split_into_folds(split, 3)
    # Cats 0.1, 0.3, 0.5, 0.9 to folds 0, 1, 2, 0; dogs 0.2, 0.4, 0.8 to 1, 2, 0.
    assert [[example.path for example in fold.validation] for fold in folds] == [
        ["train/cats/b", "train/cats/c", "validation/dogs/c"],
        ["train/dogs/b", "validation/cats/d"],
        ["train/cats/a", "train/dogs/a"],
    ]


def test_split_into_folds_keeps_duplicates_on_one_side_whatever_they_are_called() -> None:
    paths = list_paths({"train/cats": 8, "train/dogs": 8, "validation/cats": 4, "validation/dogs": 4})
    # Four cats three times each, four dogs twice each and four once, also over the border of training and validation.
    places = [number % 4 / 10 for number in range(8)] + [0.5 + number % 4 / 100 for number in range(8)]
    places += [number / 10 for number in range(4)] + [0.9 + number / 100 for number in range(4)]
    examples = [make_example(path, place_hash(place)) for path, place in zip(paths, places, strict=True)]
    split = Split(examples[:16], examples[16:], RULE)
    assert split.count_leaks() == 4
    folds = split_into_folds(split, 4)
    for fold in folds:
        assert fold.count_leaks() == 0
        assert sum(example.label == "cats" for example in fold.validation) == 3
        assert sum(example.label == "dogs" for example in fold.validation) == 3
    assert sorted(e.path for fold in folds for e in fold.validation) == sorted(paths)


def test_split_into_folds_keeps_a_picture_of_two_classes_on_one_side() -> None:
    examples = [make_example(path) for path in list_paths({"train/cats": 6, "train/dogs": 6})]
    twin = make_example("validation/dogs/twin.jpg", examples[0].content_hash)
    folds = split_into_folds(Split(examples, [twin], RULE), 3)
    where = [fold for fold in folds if twin in fold.validation]
    assert len(where) == 1
    assert examples[0] in where[0].validation
    assert [fold.count_leaks() for fold in folds] == [0, 0, 0]


def rename(example: Example) -> Example:
    return example._replace(path=f"train/{example.label}/{example.content_hash.hex()}.png", split="train")


def test_split_into_folds_are_the_same_for_other_names_order_and_sides() -> None:
    expected = list_held_out(split_into_folds(UNEVEN, 4))
    assert len(set().union(*expected)) == 29
    reverse = Split(UNEVEN.train[::-1], UNEVEN.validation[::-1], UNEVEN.rule)
    renamed = Split([rename(e) for e in UNEVEN.train], [rename(e) for e in UNEVEN.validation], "another rule")
    moved = Split([rename(e) for e in UNEVEN.train[1:] + UNEVEN.validation], [rename(UNEVEN.train[0])], UNEVEN.rule)
    for split in (UNEVEN, reverse, renamed, moved):
        assert list_held_out(split_into_folds(split, 4)) == expected


def test_split_into_folds_of_one_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match=r"^--folds: expected 0, or 2 and more, got 1\. "):
        split_into_folds(UNEVEN, 1)
    with pytest.raises(UsageError, match=r"^--folds: "):
        plan_trials(make_config(folds=1), UNEVEN)


def test_split_into_more_folds_than_pictures_of_a_class_names_the_class_and_the_number() -> None:
    assert len(split_into_folds(UNEVEN, 6)) == 6
    with pytest.raises(
        UsageError,
        match=r"^--folds: expected at most 6, the number of different pictures of class 'owls', got 7\. Ask for fewer ",
    ):
        plan_trials(make_config(folds=7), UNEVEN)


def test_split_into_folds_counts_duplicates_once() -> None:
    examples = [make_example(path) for path in list_paths({"train/cats": 5, "train/dogs": 2})]
    copies = [make_example(f"validation/dogs/{n}.jpg", examples[5].content_hash) for n in range(3)]
    with pytest.raises(UsageError, match=r"at most 2, the number of different pictures of class 'dogs', got 3"):
        split_into_folds(Split(examples, copies, RULE), 3)


def test_summarize_trials_gives_each_the_mean_and_the_deviation_of_a_sample() -> None:
    # (0.04 + 0 + 0.04) / (3 - 1) = 0.04, whose root is 0.2.
    summary = summarize_trials([0.4, 0.6, 0.8])
    assert summary == {
        "val_accuracies": [0.4, 0.6, 0.8],
        "mean": pytest.approx(0.6),
        "std": pytest.approx(0.2),
    }
    assert json.loads(json.dumps(summary)) == summary


def test_summarize_trials_of_one_has_no_deviation() -> None:
    assert summarize_trials([0.7]) == {"val_accuracies": [0.7], "mean": 0.7, "std": 0.0}


def make_fit(probabilities: Array, losses: Sequence[float], kept_epoch: int) -> Fit:
    history = [Epoch(number, loss, 0.5, loss / 2, 0.5, 0.1) for number, loss in enumerate(losses, 1)]
    return Fit(WEIGHTS, history, kept_epoch, np.zeros((0, 2), np.float32), probabilities)


def test_judge_fit_counts_what_is_right_on_the_validation_pictures() -> None:
    split = make_split({"train/cats": 1, "train/dogs": 1, "validation/cats": 3, "validation/dogs": 2})
    probabilities = np.array([[0.9, 0.1], [0.5, 0.5], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]], np.float32)
    # Right: the first cat, the second (of two equal ones the first class), and the first dog.
    assert judge_fit(make_fit(probabilities, [0.5, 0.25], 2), split) == Outcome(
        0.6, 2, None, "0.25 (validation: 0.125)"
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_judge_fit_of_one_that_diverged_names_the_epoch_and_its_losses(bad: float) -> None:
    split = make_split({"train/cats": 1, "train/dogs": 1, "validation/cats": 1, "validation/dogs": 1})
    right = np.eye(2, dtype=np.float32)
    outcome = judge_fit(make_fit(right, [0.5, 0.25, bad], 2), split)
    assert outcome == Outcome(1.0, 2, 3, f"{bad:g} (validation: {bad:g})")


class Recording:
    """A solver that notes what it was asked to solve; the n-th call may be interrupted."""

    def __init__(self, name: str = "fit_recording", interrupt_at: int = 0) -> None:
        self.__name__ = name
        self.solved: list[tuple[int, str]] = []
        self.interrupt_at = interrupt_at

    def __call__(self, problem: Problem, checkpoint: Checkpoint, console: Console) -> Fit:
        self.solved.append((problem.config.seed, problem.split.rule))
        if len(self.solved) == self.interrupt_at:
            raise KeyboardInterrupt
        probabilities = np.zeros((len(problem.split.validation), 2), np.float32)
        # As many are called cats as the seed says: another accuracy for each seed.
        probabilities[:, 1] = 1
        probabilities[: problem.config.seed % 10, 0] = 2
        return make_fit(probabilities, [0.5], 1)


@pytest.fixture
def five(two_classes: FeatureStore) -> list[Trial]:
    """Five trials: two repeats, and three folds of only the first of them."""
    split = split_examples(two_classes.examples, 0.2)
    trials = plan_trials(make_config(repeats=2, folds=3), split)[:5]
    assert [trial.name for trial in trials][1:3] == ["repeat 1", "fold 0 of repeat 0"]
    return trials


def list_solved(trials: Sequence[Trial]) -> list[tuple[int, str]]:
    return [(trial.config.seed, trial.split.rule) for trial in trials]


def expect_outcomes(trials: Sequence[Trial]) -> list[Outcome]:
    """What `Recording` comes to: validation pictures in order, the first few called cats."""
    outcomes = []
    for trial in trials:
        num_cats = trial.config.seed % 10
        right = [
            (example.label == "cats") == (place < num_cats) for place, example in enumerate(trial.split.validation)
        ]
        outcomes.append(Outcome(sum(right) / len(right), 1, None, "0.5 (validation: 0.25)"))
    return outcomes


def test_fit_others_fits_all_but_the_first_in_order_and_says_what_each_came_to(
    five: list[Trial], two_classes: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solve = Recording()
    outcomes = list(fit_others(five, two_classes, solve, tmp_path / "folder", Console()))
    assert outcomes == expect_outcomes(five[1:])
    assert solve.solved == list_solved(five[1:])
    assert capsys.readouterr().err.splitlines() == [
        f"{trial.name}: validation accuracy {outcome.val_accuracy:.4f}"
        for trial, outcome in zip(five[1:], outcomes, strict=True)
    ]
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [f"outcome-{n}.json" for n in (1, 2, 3, 4)]


def test_fit_others_of_one_trial_fits_nothing_and_makes_no_folder(
    five: list[Trial], two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    solve = Recording()
    assert list(fit_others(five[:1], two_classes, solve, tmp_path / "folder", quiet)) == []
    assert (solve.solved, list(tmp_path.iterdir())) == ([], [])


def test_fit_others_interrupted_goes_on_with_the_trial_that_was_not_finished(
    five: list[Trial], two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    first = Recording(interrupt_at=2)
    with pytest.raises(KeyboardInterrupt):
        list(fit_others(five, two_classes, first, tmp_path, quiet))
    assert first.solved == list_solved(five[1:3])
    assert [path.name for path in tmp_path.iterdir()] == ["outcome-1.json"]
    again = Recording()
    assert list(fit_others(five, two_classes, again, tmp_path, quiet)) == expect_outcomes(five[1:])
    assert again.solved == list_solved(five[2:])
    third = Recording()
    assert list(fit_others(five, two_classes, third, tmp_path, quiet)) == expect_outcomes(five[1:])
    assert third.solved == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"epochs": 21}, id="epochs"),
        pytest.param({"rank": 5}, id="rank"),
        pytest.param({"batch_size": 3}, id="batch size"),
        pytest.param({"patience": 1}, id="patience"),
    ],
)
def test_fit_others_with_another_option_of_the_fit_fits_all_again(
    five: list[Trial], two_classes: FeatureStore, tmp_path: Path, quiet: Console, change: dict[str, int]
) -> None:
    list(fit_others(five, two_classes, Recording(), tmp_path, quiet))
    solve = Recording()
    others = [replace(trial, config=replace(trial.config, **change)) for trial in five]  # type: ignore[arg-type]
    list(fit_others(others, two_classes, solve, tmp_path, quiet))
    assert solve.solved == list_solved(five[1:])


def test_fit_others_by_another_solver_fits_all_again(
    five: list[Trial], two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    list(fit_others(five, two_classes, Recording(), tmp_path, quiet))
    solve = Recording("fit_otherwise")
    list(fit_others(five, two_classes, solve, tmp_path, quiet))
    assert solve.solved == list_solved(five[1:])


def test_fit_others_with_options_that_change_no_fit_fits_none_again(
    five: list[Trial], two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    list(fit_others(five, two_classes, Recording(), tmp_path, quiet))
    change = {"run": Path("elsewhere"), "store": Path("moved"), "no_report": True, "overwrite": True, "repeats": 9}
    others = [replace(trial, config=replace(trial.config, **change)) for trial in five]  # type: ignore[arg-type]
    solve = Recording()
    assert list(fit_others(others, two_classes, solve, tmp_path, quiet)) == expect_outcomes(five[1:])
    assert solve.solved == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda split: Split(split.train[1:], split.validation, split.rule), id="a picture gone"),
        pytest.param(lambda split: Split(split.train[::-1], split.validation, split.rule), id="another order"),
        pytest.param(
            lambda split: Split(split.train[:-1], [split.train[-1], *split.validation], split.rule), id="another side"
        ),
        pytest.param(
            lambda split: Split([split.train[0]._replace(label="dogs"), *split.train[1:]], split.validation, ""),
            id="another class",
        ),
    ],
)
def test_fit_others_on_other_pictures_fits_again_what_has_them(
    five: list[Trial],
    two_classes: FeatureStore,
    tmp_path: Path,
    quiet: Console,
    change: Callable[[Split], Split],
) -> None:
    list(fit_others(five, two_classes, Recording(), tmp_path, quiet))
    five[3] = replace(five[3], split=change(five[3].split))
    solve = Recording()
    list(fit_others(five, two_classes, solve, tmp_path, quiet))
    assert solve.solved == list_solved([five[3]])


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("{", id="cut off"),
        pytest.param("[1, 2]", id="a list"),
        pytest.param("null", id="null"),
        pytest.param('{"val_accuracy": 1.0}', id="no key"),
        pytest.param("\udcff\udcfe", id="not UTF-8"),
    ],
)
def test_fit_others_with_a_damaged_outcome_fits_that_trial_again(
    five: list[Trial], two_classes: FeatureStore, tmp_path: Path, quiet: Console, text: str
) -> None:
    expected = list(fit_others(five, two_classes, Recording(), tmp_path, quiet))
    whole = (tmp_path / "outcome-3.json").read_bytes()
    (tmp_path / "outcome-3.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    solve = Recording()
    assert list(fit_others(five, two_classes, solve, tmp_path, quiet)) == expected
    assert solve.solved == list_solved([five[3]])
    assert (tmp_path / "outcome-3.json").read_bytes() == whole


@pytest.mark.parametrize("change", [{"extra": 1}, {"key": "another"}, {"kept_epoch": None}])
def test_fit_others_with_an_outcome_of_another_kind_fits_that_trial_again(
    five: list[Trial], two_classes: FeatureStore, tmp_path: Path, quiet: Console, change: dict[str, object]
) -> None:
    expected = list(fit_others(five, two_classes, Recording(), tmp_path, quiet))
    values = json.loads((tmp_path / "outcome-1.json").read_text())
    assert {name: value for name, value in values.items() if name != "key"} == asdict(expected[0])
    values = {name: value for name, value in (values | change).items() if value is not None}
    (tmp_path / "outcome-1.json").write_text(json.dumps(values))
    solve = Recording()
    assert list(fit_others(five, two_classes, solve, tmp_path, quiet)) == expected
    assert solve.solved == list_solved([five[1]])


def test_fit_others_with_a_file_in_the_place_of_the_folder_goes_on_without(
    five: list[Trial], two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    (tmp_path / "folder").write_text("a file")
    assert list(fit_others(five, two_classes, Recording(), tmp_path / "folder", quiet)) == expect_outcomes(five[1:])


def save_end(problem: Problem, checkpoint: Checkpoint, console: Console) -> Fit:
    """A solver that offers its end to the checkpoint, and knows it again."""
    state = checkpoint.load(console)
    console.say("from the checkpoint" if state else "anew")
    watch = Watch(0, [Epoch(1, 0.5, 0.5, 0.25, 0.5, 0.1)], WEIGHTS)
    checkpoint.offer(lambda: [np.array(1)], watch, 1)
    return make_fit(np.eye(2, dtype=np.float32), [0.5], 1)


@pytest.mark.parametrize(("num_trials", "said"), [(1, ["anew", "anew"]), (5, ["anew", "from the checkpoint"])])
def test_fit_first_keeps_its_end_where_others_follow(
    five: list[Trial],
    two_classes: FeatureStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    num_trials: int,
    said: list[str],
) -> None:
    console = Console(ConsoleOptions())
    for _ in range(2):
        assert fit_first(five[:num_trials], two_classes, save_end, tmp_path / "folder", console).kept_epoch == 1
    assert capsys.readouterr().err.splitlines() == said
    assert (tmp_path / "folder/fit-0.npz").exists() == (num_trials > 1)


def test_fit_others_leaves_no_checkpoints_of_finished_trials(
    five: list[Trial], two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    seen: Counter[str] = Counter()

    def solve(problem: Problem, checkpoint: Checkpoint, console: Console) -> Fit:
        fit = Recording()(problem, checkpoint, console)
        seen.update(path.name for path in tmp_path.glob("*.npz"))
        (tmp_path / f"fit-{len(list(tmp_path.glob('outcome-*'))) + 1}.npz").write_bytes(b"of an epoch")
        return fit

    list(fit_others(five, two_classes, solve, tmp_path, quiet))
    assert seen == Counter()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"outcome-{n}.json" for n in (1, 2, 3, 4)]
