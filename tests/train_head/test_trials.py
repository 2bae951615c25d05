"""Repeats and folds: planning, splitting, evaluating and summarizing fits."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from base.errors import UsageError
from features.store import Example
from features.validation_split import sort_examples
from tests.errors import raises
from tests.train_head.fits import make_fit
from tests.train_head.synthetic import list_paths, make_example, place_hash
from train_head.config import TrainConfig
from train_head.data.folds import split_into_folds
from train_head.data.split import Split
from train_head.trials import Outcome, evaluate_fit, plan_trials, summarize_trials

pytestmark = pytest.mark.unit

RULE = "folder validation/"


def make_split(counts: dict[str, int]) -> Split:
    """Return a split of distinct pictures, such as {"train/cats": 3, "validation/cats": 2}."""
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
def test_plan_trials_lists_repeats_then_folds_with_names_and_seeds(
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
def test_split_into_folds_holds_out_each_picture_once(num_folds: int) -> None:
    folds = split_into_folds(UNEVEN, num_folds)
    assert [fold.rule for fold in folds] == [f"fold {number} of {num_folds}" for number in range(1, num_folds + 1)]
    everything = [example.path for example in UNEVEN.train + UNEVEN.validation]
    assert sorted(e.path for fold in folds for e in fold.validation) == sorted(everything)
    for fold in folds:
        held_out = {example.path for example in fold.validation}
        assert {example.path for example in fold.train} == set(everything) - held_out
        for examples in (fold.train, fold.validation):
            assert examples == sort_examples(examples)
        assert fold.classes == UNEVEN.classes
        assert fold.count_leaks() == 0


@pytest.mark.parametrize("num_folds", [2, 3, 4, 5, 6])
def test_split_into_folds_balances_sizes_and_classes(num_folds: int) -> None:
    folds = split_into_folds(UNEVEN, num_folds)
    for label, total in (("cats", 14), ("dogs", 9), ("owls", 6)):
        counts = [sum(example.label == label for example in fold.validation) for fold in folds]
        assert sum(counts) == total
        assert max(counts) - min(counts) <= 1
    sizes = [len(fold.validation) for fold in folds]
    assert max(sizes) - min(sizes) <= 1


def test_split_into_folds_assigns_pictures_in_hash_order() -> None:
    contents = {"train/cats/a": 0.5, "train/cats/b": 0.1, "train/cats/c": 0.9, "validation/cats/d": 0.3}
    contents |= {"train/dogs/a": 0.4, "train/dogs/b": 0.2, "validation/dogs/c": 0.8}
    examples = [make_example(path, place_hash(place)) for path, place in contents.items()]
    split = Split([e for e in examples if e.split == "train"], [e for e in examples if e.split != "train"], RULE)
    folds = split_into_folds(split, 3)
    # Cats 0.1, 0.3, 0.5, 0.9 to folds 0, 1, 2, 0; dogs 0.2, 0.4, 0.8 to 1, 2, 0.
    assert [[example.path for example in fold.validation] for fold in folds] == [
        ["train/cats/b", "validation/dogs/c", "train/cats/c"],
        ["train/dogs/b", "validation/cats/d"],
        ["train/dogs/a", "train/cats/a"],
    ]


def test_split_into_folds_ignores_paths_shards_and_rows() -> None:
    examples = [*UNEVEN.train, *UNEVEN.validation]
    # Two contents have two labels each. Whichever path comes first, each content counts for one class.
    examples += [
        make_example(f"{folder}/{number}.jpg", examples[number].content_hash)
        for number in (0, 20)
        for folder in ("train/owls", "train/dogs")
    ]
    moved = [
        example._replace(path=f"train/{example.label}/{place}.jpg", split="train", shard=place % 3, row=place)
        for place, example in enumerate(reversed(examples))
    ]
    expected, found = (
        [[(e.content_hash, e.label) for e in fold.validation] for fold in split_into_folds(Split(train, [], RULE), 4)]
        for train in (examples, moved)
    )
    assert found == expected


@pytest.mark.parametrize(("seed", "repeats"), [(2**32, 1), (2**32 - 2, 3), (2**40, 1)])
def test_plan_trials_with_seed_beyond_32_bits_fails(seed: int, repeats: int) -> None:
    with raises(UsageError, where="--seed", got=seed):
        plan_trials(make_config(repeats=repeats, folds=0, seed=seed), UNEVEN)
    assert len(plan_trials(make_config(repeats=repeats, folds=0, seed=2**32 - repeats), UNEVEN)) == repeats


def test_split_into_folds_keeps_duplicates_in_one_fold() -> None:
    paths = list_paths({"train/cats": 8, "train/dogs": 8, "validation/cats": 4, "validation/dogs": 4})
    # Four cats three times each, four dogs twice and four dogs once, some in both training and validation.
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


def test_split_into_folds_keeps_picture_with_two_labels_in_one_fold() -> None:
    examples = [make_example(path) for path in list_paths({"train/cats": 6, "train/dogs": 6})]
    twin = make_example("validation/dogs/twin.jpg", examples[0].content_hash)
    folds = split_into_folds(Split(examples, [twin], RULE), 3)
    (fold,) = (fold for fold in folds if twin in fold.validation)
    assert examples[0] in fold.validation
    assert [fold.count_leaks() for fold in folds] == [0, 0, 0]


def rename(example: Example) -> Example:
    return example._replace(path=f"train/{example.label}/{example.content_hash.hex()}.png", split="train")


def test_split_into_folds_ignores_names_order_and_original_split() -> None:
    expected = list_held_out(split_into_folds(UNEVEN, 4))
    assert len(set().union(*expected)) == 29
    reverse = Split(UNEVEN.train[::-1], UNEVEN.validation[::-1], UNEVEN.rule)
    renamed = Split([rename(e) for e in UNEVEN.train], [rename(e) for e in UNEVEN.validation], "another rule")
    moved = Split([rename(e) for e in UNEVEN.train[1:] + UNEVEN.validation], [rename(UNEVEN.train[0])], UNEVEN.rule)
    for split in (UNEVEN, reverse, renamed, moved):
        assert list_held_out(split_into_folds(split, 4)) == expected


@pytest.mark.parametrize("folds", [1, 7])
def test_plan_trials_with_invalid_number_of_folds_fails(folds: int) -> None:
    # The smallest class has six different pictures.
    assert len(split_into_folds(UNEVEN, 6)) == 6
    with raises(UsageError, where="--folds", got=folds) as caught:
        plan_trials(make_config(folds=folds), UNEVEN)
    assert folds == 1 or "at most 6" in caught.value.expected
    assert folds == 1 or "'owls'" in caught.value.expected


def test_split_into_folds_counts_duplicates_once() -> None:
    examples = [make_example(path) for path in list_paths({"train/cats": 5, "train/dogs": 2})]
    copies = [make_example(f"validation/dogs/{n}.jpg", examples[5].content_hash) for n in range(3)]
    with raises(UsageError, where="--folds", got=3) as caught:
        split_into_folds(Split(examples, copies, RULE), 3)
    assert "at most 2" in caught.value.expected


def test_summarize_trials_computes_mean_and_sample_deviation() -> None:
    config = make_config(repeats=3, folds=2)
    trials = plan_trials(config, UNEVEN)
    accuracies = [0.4, 0.6, 0.8, 0.7]
    summaries = summarize_trials(trials, [Outcome(found, 2, None, "") for found in accuracies], config)
    # (0.04 + 0 + 0.04) / (3 - 1) = 0.04 = 0.2 ** 2. One fold of six was fitted, so it has no deviation.
    deviation, num_train = pytest.approx(0.2), len(UNEVEN.train)
    assert summaries["repeats"] == {
        "val_accuracies": [0.4, 0.6, 0.8],
        "mean": pytest.approx(0.6),
        "std": deviation,
        "num_train": [num_train] * 3,
        "num_planned": 3,
    }
    fold = summaries["folds"]
    assert (fold["val_accuracies"], fold["mean"], fold["std"], fold["num_planned"]) == ([0.7], 0.7, 0.0, 6)
    assert summaries["diverged"] is None
    assert json.loads(json.dumps(summaries)) == summaries


def test_summarize_trials_excludes_and_names_diverged_trial() -> None:
    config = make_config(repeats=3)
    outcomes = [Outcome(0.5, 4, None, ""), Outcome(0.9, 1, 2, "nan"), Outcome(0.9, 1, 3, "inf")]
    summaries = summarize_trials(plan_trials(config, UNEVEN), outcomes, config)
    assert summaries["repeats"]["val_accuracies"] == [0.5]
    assert summaries["diverged"] == {"trial": "repeat 1", "epoch": 2, "losses": "nan", "kept_epoch": 4}


def test_summarize_trials_of_single_fit_is_empty() -> None:
    config = make_config()
    assert summarize_trials(plan_trials(config, UNEVEN), [Outcome(0.7, 1, None, "")], config) == {"diverged": None}


def test_evaluate_fit_counts_correct_validation_pictures() -> None:
    split = make_split({"train/cats": 1, "train/dogs": 1, "validation/cats": 3, "validation/dogs": 2})
    probabilities = np.array([[0.9, 0.1], [0.5, 0.5], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]], np.float32)
    # Correct: the first two cats (a tie goes to the first class) and the first dog. Wrong: a cat and a dog.
    assert evaluate_fit(make_fit(probabilities, [0.5, 0.25], 2), split) == Outcome(
        0.6, 2, None, "0.25 (validation: 0.125)"
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_evaluate_fit_of_a_diverged_fit_has_the_epoch_and_its_losses(bad: float) -> None:
    split = make_split({"train/cats": 1, "train/dogs": 1, "validation/cats": 1, "validation/dogs": 1})
    right = np.eye(2, dtype=np.float32)
    outcome = evaluate_fit(make_fit(right, [0.5, 0.25, bad], 2), split)
    assert outcome == Outcome(1.0, 2, 3, f"{bad:g} (validation: {bad:g})")
