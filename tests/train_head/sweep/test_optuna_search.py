"""Search with Optuna: drawn values, stopped heads, and continuation after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from base.errors import UsageError
from base.terminal import Console
from features.store import FeatureStore
from tests.errors import raises
from tests.train_head.sweeps import Swept, make_sweep, record_fits
from train_head.config import OptimizerName
from train_head.sweep.__main__ import sweep
from train_head.sweep.config import MetricName, SearchName, SweepConfig
from train_head.sweep.optuna_search import name_study, round_number
from train_head.sweep.plan import check_candidates, plan_grid
from train_head.sweep.space import parse_axes

RANGES = ("units=4..16", "dropout=0.0..0.7", "learning-rate=1e-4..1e-1", "optimizer=rmsprop,adam")
NUM_TRIALS = 8


def make_search(
    store: FeatureStore | Path, out: Path, *tries: str, trials: int = NUM_TRIALS, **options: Any
) -> SweepConfig:
    return make_sweep(store, out, *(tries or RANGES), search=SearchName.OPTUNA, trials=trials, **options)


def list_results(result: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Return the values of each head that do not depend on the time or the folder."""
    return [(row["name"], row["status"], row["metric"], row["val_loss"], row["epochs"]) for row in result["trials"]]


@pytest.fixture(scope="module")
def searched(noisy: FeatureStore, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Swept:
    """Search of eight trials, not to be changed."""
    config = make_search(noisy, tmp_path_factory.mktemp("searched") / "out")
    return Swept(config, sweep(config, quiet))


def test_search_draws_from_ranges_and_lists(searched: Swept) -> None:
    result = searched.result
    assert result["num_heads"] == len(result["trials"]) == NUM_TRIALS
    for row in result["trials"]:
        units, dropout, rate, optimizer = row["values"].values()
        assert isinstance(units, int)
        assert 4 <= units <= 16
        assert 0 <= dropout <= 0.7
        assert 1e-4 <= rate <= 1e-1
        assert optimizer in ("rmsprop", "adam")
    rates = [row["values"]["learning_rate"] for row in result["trials"]]
    # On a linear scale, a draw below 1e-2 is rare.
    assert min(rates) < 1e-2 < max(rates)
    assert len({row["values"]["optimizer"] for row in result["trials"]}) == 2


def test_search_draws_the_same_values_for_the_same_seed_only(
    searched: Swept, noisy: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    again = sweep(make_search(noisy, tmp_path / "again", trials=3), quiet)
    other = sweep(make_search(noisy, tmp_path / "other", trials=3, seed=4), quiet)
    assert set(list_results(again)) < set(list_results(searched.result))
    names = {row["name"] for row in searched.result["trials"]}
    assert not names & {row["name"] for row in other["trials"]}


@pytest.mark.parametrize("interrupt_at", [1, NUM_TRIALS - 1])
def test_search_after_an_interruption_gives_the_result_of_an_uninterrupted_one(
    searched: Swept,
    noisy: FeatureStore,
    tmp_path: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    interrupt_at: int,
) -> None:
    config = make_search(noisy, tmp_path / "out")
    before = record_fits(monkeypatch, interrupt_at)
    with pytest.raises(KeyboardInterrupt):
        sweep(config, quiet)
    after = record_fits(monkeypatch)
    result = sweep(config, quiet)
    assert list_results(result) == list_results(searched.result)
    # Only the interrupted head is fitted twice.
    assert before[-1] == after[0]
    assert len(before) + len(after) == NUM_TRIALS + 1


def test_search_again_fits_only_additional_trials(
    searched: Swept, copy_sweep: Callable[[Swept], Swept], quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = copy_sweep(searched).config
    fitted = record_fits(monkeypatch)
    assert list_results(sweep(config, quiet)) == list_results(searched.result)
    assert fitted == []
    more = sweep(replace(config, trials=NUM_TRIALS + 2), quiet)
    assert len(fitted) == 2
    assert {row["name"] for row in searched.result["trials"]} < {row["name"] for row in more["trials"]}


def test_search_stops_heads_that_are_worse_than_others_at_the_same_epoch(
    noisy: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The median pruner separates the worst learning rates from the good ones.
    config = make_search(noisy, tmp_path / "out", "learning-rate=1e-7..1e-1", trials=16, epochs=10)
    result = sweep(config, quiet)
    pruned = [row for row in result["trials"] if row["status"] == "pruned"]
    done = [row for row in result["trials"] if row["status"] == "done"]
    assert pruned
    assert len(done) >= 5
    for row in pruned:
        # No head is stopped in the first fifth of the epochs.
        assert 2 <= row["epochs"] < 10
        assert (row["metric"], row["run"]) == (None, "")
        assert not (config.out / "trials" / row["name"]).exists()
    assert [path for path in (config.out / "trials").iterdir() if path.name.startswith(".")] == []
    assert min(row["val_loss"] for row in pruned) > min(row["val_loss"] for row in done)
    fitted = record_fits(monkeypatch)
    assert list_results(sweep(config, quiet)) == list_results(result)
    assert fitted == []


def test_search_with_a_diverged_head_continues(noisy: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    config = make_search(noisy, tmp_path / "out", "learning-rate=1e-2,1e38", trials=6, optimizer=OptimizerName.SGD)
    result = sweep(config, quiet)
    assert [(row["values"]["learning_rate"], row["status"]) for row in result["trials"]] == [
        (0.01, "done"),
        (1e38, "diverged"),
    ]
    # The six trials draw only two different heads.
    assert result["num_heads"] == 2
    assert list_results(sweep(config, quiet)) == list_results(result)


def test_search_by_loss_minimizes_it(noisy: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    config = make_search(noisy, tmp_path / "out", "units=4,8", "l2=0,0.01", trials=6, metric=MetricName.VAL_LOSS)
    result = sweep(config, quiet)
    losses = [row["metric"] for row in result["trials"] if row["status"] == "done"]
    assert result["best"]["metric"] == min(losses)
    study = load_study(config)
    finished = [trial.value for trial in study.trials if trial.state.name == "COMPLETE"]
    assert study.best_value == max(value for value in finished if value is not None) == pytest.approx(-min(losses))


def test_search_draws_from_all_cuts(cuts: Path, tmp_path: Path, quiet: Console) -> None:
    result = sweep(make_search(cuts, tmp_path / "out", "units=4,8", trials=6), quiet)
    assert {row["values"]["cut"] for row in result["trials"]} == {"mixed5", "mixed7"}


@pytest.mark.unit
def test_search_without_optuna_is_wrong_usage(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("base.errors.find_spec", lambda name: None)
    with raises(UsageError, where="--search optuna") as caught:
        sweep(make_search(two_classes, tmp_path / "out"), quiet)
    assert "headstart[optuna]" in caught.value.advice
    assert list(tmp_path.iterdir()) == []


@pytest.mark.unit
def test_search_of_a_range_with_an_invalid_end_is_wrong_usage(
    two_classes: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    with raises(UsageError, where="rank 13: --rank") as caught:
        sweep(make_search(two_classes, tmp_path / "out", "rank=2..13"), quiet)
    assert "12" in caught.value.expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.unit
def test_name_study_depends_on_options_axes_and_pictures(
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


@pytest.mark.unit
@pytest.mark.parametrize(
    ("value", "rounded"), [(0.00012345, 0.000123), (0.98765, 0.988), (12345, 12345), (1e-5, 1e-5), (12345.0, 12300.0)]
)
def test_round_number_keeps_three_significant_digits_of_floats(value: float, rounded: float) -> None:
    assert round_number(value) == rounded
    assert type(round_number(value)) is type(rounded)


def load_study(config: SweepConfig) -> Any:
    """Load the only study in the journal of a search."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    storage = optuna.storages.JournalStorage(JournalFileBackend(str(config.out / "optuna.journal")))
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)
