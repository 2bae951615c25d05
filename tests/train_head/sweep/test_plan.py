"""Plan of a sweep: its heads, their names, and the combinations that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import StoreMissingError, UsageError
from features.options import Pool
from features.store import FeatureStore
from tests.errors import raises
from tests.train_head.sweeps import make_sweep
from tests.train_head.synthetic import list_paths, make_store
from train_head.sweep.config import MetricName, SearchName
from train_head.sweep.plan import (
    Candidate,
    check_candidates,
    count_different_validation_sets,
    name_candidate,
    plan_grid,
    plan_selection,
    plan_sweep,
)
from train_head.sweep.space import parse_axes

pytestmark = pytest.mark.unit


def plan(store: FeatureStore | Path, out: Path, *tries: str, **options: Any) -> list[Candidate]:
    return plan_grid(make_sweep(store, out, **options), parse_axes(tries, takes_ranges=False))


def test_plan_grid_plans_all_combinations_with_the_last_axis_changing_fastest(
    two_classes: FeatureStore, tmp_path: Path
) -> None:
    heads = plan(two_classes, tmp_path, "units=4,8", "dropout=0.2,0.5,0.6", epochs=7)
    assert [head.values for head in heads] == [
        {"units": units, "dropout": dropout} for units in (4, 8) for dropout in (0.2, 0.5, 0.6)
    ]
    config = heads[4].config
    assert (config.units, config.dropout, config.epochs, config.learning_rate) == (8, 0.5, 7, 0.01)
    assert config.run == tmp_path / "trials" / "units-8_dropout-0.5"
    assert config.no_report


def test_plan_grid_without_axes_plans_one_head(two_classes: FeatureStore, tmp_path: Path) -> None:
    (head,) = plan(two_classes, tmp_path)
    assert (head.name, head.values) == ("head", {})


def test_name_candidate_joins_names_and_values() -> None:
    values = {"cut": "mixed7", "units": 256, "learning_rate": 3e-5, "pool": Pool.AVG}
    assert name_candidate(values) == "cut-mixed7_units-256_learning-rate-3e-05_pool-avg"


def test_name_candidate_of_invalid_characters_or_long_values_ends_with_a_hash() -> None:
    slash, dash = name_candidate({"store": Path("a/b")}), name_candidate({"store": Path("a-b")})
    assert dash == "store-a-b"
    assert slash.startswith("store-b_")
    assert slash == name_candidate({"store": Path("a/b")})
    long = [name_candidate({"cut": "x" * 200 + end}) for end in "ab"]
    assert len(set(long)) == 2
    assert max(map(len, long)) < 140
    assert "/" not in name_candidate({"store": Path("/caf\udce9/ü:*?\n")})


@pytest.mark.parametrize(
    ("tries", "where", "expected", "got"),
    [
        (["views=1,2"], "views 2: --views", "1", "2"),
        (["cut=mixed9"], "cut mixed9: --cut", "mixed0", "mixed9"),
        (["rank=4,13", "units=4"], "rank 13, units 4: --rank", "12", "13"),
        (["momentum=0,0.9", "optimizer=sgd,adam"], "momentum 0.9, optimizer adam: --momentum", "sgd", "adam"),
        (["learning-rate=0"], "learning rate 0.0: --learning-rate", "0", "0"),
    ],
)
def test_check_candidates_with_an_invalid_combination_names_its_values(
    two_classes: FeatureStore, tmp_path: Path, tries: list[str], where: str, expected: str, got: str
) -> None:
    with raises(UsageError, where=where) as caught:
        check_candidates(plan(two_classes, tmp_path / "out", *tries))
    assert expected in caught.value.expected
    assert got in caught.value.got
    assert caught.value.exit_status == 2
    assert list(tmp_path.iterdir()) == []


def test_check_candidates_with_more_folds_than_pictures_of_a_class_is_wrong_usage(
    two_classes: FeatureStore, tmp_path: Path
) -> None:
    check_candidates(plan(two_classes, tmp_path, "rank=4,12", folds=3))
    with raises(UsageError, where="rank 4: --folds") as caught:
        check_candidates(plan(two_classes, tmp_path, "rank=4,12", folds=16))
    assert "15" in caught.value.expected
    assert "16" in caught.value.got


def test_check_candidates_with_a_mean_of_pooled_features_is_wrong_usage(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", list_paths({"cats": 4, "dogs": 4}), features=np.ones((8, 3)))
    with raises(UsageError) as caught:
        check_candidates(plan(store, tmp_path / "out", "pool=none,avg"))
    assert str(caught.value.where).startswith("pool avg: --pool")
    assert "(3,)" in caught.value.got


def test_check_candidates_with_a_missing_store_is_an_error_of_the_store(
    two_classes: FeatureStore, tmp_path: Path
) -> None:
    with raises(StoreMissingError, where=tmp_path / "nowhere"):
        check_candidates(plan(two_classes, tmp_path, f"store={two_classes.path},{tmp_path / 'nowhere'}"))


def test_check_candidates_returns_a_dataset_for_each_store_and_cut(cuts: Path, tmp_path: Path) -> None:
    datasets = check_candidates(plan(cuts, tmp_path, "units=4,8", "cut=mixed5,mixed7", "pool=none,avg"))
    assert [dataset.store.fingerprint.cut for dataset in datasets] == ["mixed5", "mixed7"]
    assert [(len(m.split.train), len(m.split.validation)) for m in datasets] == [(12, 8)] * 2
    assert count_different_validation_sets(datasets) == 0


def test_count_different_validation_sets_counts_stores_with_other_pictures(
    two_classes: FeatureStore, noisy: FeatureStore, tmp_path: Path
) -> None:
    datasets = check_candidates(plan(two_classes, tmp_path, f"store={two_classes.path},{noisy.path}"))
    assert count_different_validation_sets(datasets) == 1


@pytest.mark.parametrize(
    ("options", "where", "got"),
    [
        ({"trials": 4}, "--trials", "--search grid"),
        ({"metric": MetricName.VAL_LOSS, "folds": 2}, "--metric", "val_loss"),
        ({"metric": MetricName.VAL_LOSS, "repeats": 2}, "--metric", "val_loss"),
    ],
)
def test_plan_sweep_with_contradicting_options_is_wrong_usage(
    two_classes: FeatureStore, tmp_path: Path, options: dict[str, Any], where: str, got: str
) -> None:
    with raises(UsageError, where=where, got=got):
        plan_sweep(make_sweep(two_classes, tmp_path / "out", "units=4", **options))


def test_plan_sweep_into_a_file_is_wrong_usage(two_classes: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with raises(UsageError, where=tmp_path / "out"):
        plan_sweep(make_sweep(two_classes, tmp_path / "out", "units=4"))


@pytest.mark.parametrize(
    ("tries", "options", "num_heads", "num_possible", "num_candidates"),
    [
        (["units=4,8", "dropout=0.1,0.2"], {}, 4, 0, 4),
        (["units=4,8"], {"patience": 3, "epochs": 50}, 2, 0, 100),
        (["patience=0,3", "epochs=5,20"], {}, 4, 0, 80),
        (["units=4,8"], {"search": SearchName.OPTUNA}, 2, 0, 2),
        (["units=4..103"], {"search": SearchName.OPTUNA, "trials": 10}, 10, 100, 100),
    ],
)
def test_plan_selection_counts_the_heads_and_epochs_to_choose_from(
    tries: list[str],
    options: dict[str, Any],
    num_heads: int,
    num_possible: int,
    num_candidates: int,
    tmp_path: Path,
) -> None:
    config = make_sweep(tmp_path / "store", tmp_path / "out", *tries, **options)
    axes = parse_axes(tries, takes_ranges=True)
    found = plan_selection(config, axes, plan_grid(config, axes), 0)
    assert (found.num_heads, found.num_possible, found.num_candidates) == (num_heads, num_possible, num_candidates)
    more = plan_selection(config, axes, plan_grid(config, axes), 2)
    assert more.num_heads == num_heads + 2
    assert more.num_possible == (num_possible + 2 if num_possible else 0)
