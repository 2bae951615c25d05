"""Optuna's search, for real: what it draws, what it gives up, and how it goes on after an interruption."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from base.errors import UsageError
from base.terminal import Console
from features.store import FeatureStore
from tests.train_head.sweeps import count_fits, make_cuts, make_sweep
from train_head.config import OptimizerName
from train_head.sweep.__main__ import sweep
from train_head.sweep.config import MetricName, SearchName, SweepConfig
from train_head.sweep.optuna_search import name_study, round_number
from train_head.sweep.plan import check_candidates, plan_grid
from train_head.sweep.space import parse_axes

RANGES = ("units=4..16", "dropout=0.0..0.7", "learning-rate=1e-4..1e-1", "optimizer=rmsprop,adam")


def make_search(store: FeatureStore | Path, out: Path, *tries: str, trials: int = 8, **options: Any) -> SweepConfig:
    return make_sweep(store, out, *(tries or RANGES), search=SearchName.OPTUNA, trials=trials, **options)


def measure(result: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """What is the same whenever it was fitted."""
    return [(row["name"], row["status"], row["metric"], row["val_loss"], row["epochs"]) for row in result["trials"]]


def test_search_draws_from_ranges_and_lists(noisy: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    result = sweep(make_search(noisy, tmp_path / "out", trials=12), quiet)
    assert result["num_heads"] == len(result["trials"]) == 12
    for row in result["trials"]:
        units, dropout, rate, optimizer = row["values"].values()
        assert isinstance(units, int)
        assert 4 <= units <= 16
        assert 0 <= dropout <= 0.7
        assert 1e-4 <= rate <= 1e-1
        assert optimizer in ("rmsprop", "adam")
    rates = [row["values"]["learning_rate"] for row in result["trials"]]
    # By its logarithm: some are in the range's lowest tenth and hundredth.
    assert min(rates) < 1e-2 < max(rates)
    assert len({row["values"]["optimizer"] for row in result["trials"]}) == 2


def test_search_of_the_same_seed_draws_the_same_and_of_another_not(
    noisy: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    first, again, other = (
        sweep(make_search(noisy, tmp_path / name, trials=4, seed=seed), quiet)
        for name, seed in (("first", 3), ("again", 3), ("other", 4))
    )
    assert measure(first) == measure(again)
    assert [row["name"] for row in first["trials"]] != [row["name"] for row in other["trials"]]


@pytest.mark.parametrize("interrupt_at", [1, 4, 7])
def test_search_interrupted_goes_on_and_ends_as_one_that_was_not(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch, interrupt_at: int
) -> None:
    expected = sweep(make_search(noisy, tmp_path / "expected"), quiet)
    config = make_search(noisy, tmp_path / "out")
    before = count_fits(monkeypatch, interrupt_at)
    with pytest.raises(KeyboardInterrupt):
        sweep(config, quiet)
    after = count_fits(monkeypatch)
    result = sweep(config, quiet)
    assert measure(result) == measure(expected)
    # The one that was interrupted is fitted again, and nothing else twice.
    assert before[-1] == after[0]
    assert len(before) + len(after) == 8 + 1


def test_search_again_fits_nothing_and_more_trials_go_on(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_search(noisy, tmp_path / "out", trials=5)
    first = sweep(config, quiet)
    fitted = count_fits(monkeypatch)
    assert measure(sweep(config, quiet)) == measure(first)
    assert fitted == []
    more = sweep(replace(config, trials=7), quiet)
    assert len(fitted) == 2
    assert {row["name"] for row in first["trials"]} < {row["name"] for row in more["trials"]}


def test_search_gives_up_heads_that_are_worse_than_others_were(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rates from hopeless to good, so that the median tells them apart.
    config = make_search(noisy, tmp_path / "out", "learning-rate=1e-7..1e-1", trials=16, epochs=10)
    result = sweep(config, quiet)
    pruned = [row for row in result["trials"] if row["status"] == "pruned"]
    done = [row for row in result["trials"] if row["status"] == "done"]
    assert pruned
    assert len(done) >= 5
    for row in pruned:
        # Not before the first fifth, as every head starts badly.
        assert 2 <= row["epochs"] < 10
        assert (row["metric"], row["run"]) == (None, "")
        assert not (config.out / "trials" / row["name"]).exists()
    assert [path for path in (config.out / "trials").iterdir() if path.name.startswith(".")] == []
    by_epoch = sorted(row["val_loss"] for row in pruned)
    assert by_epoch[0] > min(row["val_loss"] for row in done)
    fitted = count_fits(monkeypatch)
    assert measure(sweep(config, quiet)) == measure(result)
    assert fitted == []


def test_search_with_a_head_that_diverges_goes_on_and_counts_it(
    noisy: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_search(noisy, tmp_path / "out", "learning-rate=1e-2,1e38", trials=6, optimizer=OptimizerName.SGD)
    result = sweep(config, quiet)
    assert [(row["values"]["learning_rate"], row["status"]) for row in result["trials"]] == [
        (0.01, "done"),
        (1e38, "diverged"),
    ]
    # Six trials were drawn from two heads, and each head is one row.
    assert result["num_heads"] == 2
    assert measure(sweep(config, quiet)) == measure(result)


def test_search_by_loss_finds_the_lower_one(noisy: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    config = make_search(noisy, tmp_path / "out", "units=4,8", "l2=0,0.01", trials=6, metric=MetricName.VAL_LOSS)
    result = sweep(config, quiet)
    losses = [row["metric"] for row in result["trials"] if row["status"] == "done"]
    assert result["best"]["metric"] == min(losses)
    (study,) = load_studies(config)
    finished = [trial.value for trial in study.trials if trial.state is optuna.trial.TrialState.COMPLETE]
    assert study.best_value == max(value for value in finished if value is not None) == pytest.approx(-min(losses))


def test_search_over_cuts_takes_them_all(tmp_path: Path, quiet: Console) -> None:
    result = sweep(make_search(make_cuts(tmp_path / "cuts"), tmp_path / "out", "units=4,8", trials=8), quiet)
    assert {row["values"]["cut"] for row in result["trials"]} == {"mixed5", "mixed7"}


def test_search_without_optuna_tells_how_to_install_it_before_anything_is_fitted(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("base.errors.find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        sweep(make_search(two_classes, tmp_path / "out"), quiet)
    assert caught.value.where == "--search optuna"
    assert "headstart[optuna]" in caught.value.advice
    assert list(tmp_path.iterdir()) == []


def test_search_over_a_range_whose_end_cannot_be_is_wrong_usage(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    with pytest.raises(UsageError, match=r"^rank 13: --rank: expected at most 12, all inputs, got 13"):
        sweep(make_search(two_classes, tmp_path / "out", "rank=2..13"), quiet)
    assert list(tmp_path.iterdir()) == []


def test_name_study_is_another_for_other_options_axes_and_pictures(
    two_classes: FeatureStore, noisy: FeatureStore, tmp_path: Path
) -> None:
    def name(store: FeatureStore, *tries: str, **options: Any) -> str:
        config = make_search(store, tmp_path / "out", **options)
        axes = parse_axes(tries or RANGES, takes_ranges=True)
        return name_study(config, axes, check_candidates(plan_grid(config, axes)))

    same = name(two_classes)
    assert same == name(two_classes, no_report=False, tensorboard=True, overwrite=True, trials=99)
    others = [
        name(noisy),
        name(two_classes, epochs=9),
        name(two_classes, seed=9),
        name(two_classes, metric=MetricName.VAL_LOSS),
        name(two_classes, "units=4..8"),
        name(two_classes, "units=4,8"),
    ]
    assert len({same, *others}) == 7


def test_round_number_keeps_three_digits_that_count() -> None:
    assert (round_number(0.00012345), round_number(0.98765), round_number(12345)) == (0.000123, 0.988, 12345)
    assert math.isclose(round_number(1e-5), 1e-5)


def load_studies(config: SweepConfig) -> list[optuna.Study]:
    from optuna.storages.journal import JournalFileBackend

    storage = optuna.storages.JournalStorage(JournalFileBackend(str(config.out / "optuna.journal")))
    return [optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)]
