"""Ridge heads on channel means as baselines of a sweep: which are planned, and that the best can be one of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from base.terminal import Console
from features.options import Pool
from features.store import FeatureStore
from tests.train_head.sweeps import make_sweep, read_table
from tests.train_head.training import make_config
from train_head.config import SolverName
from train_head.runs.read import Run
from train_head.sweep.__main__ import sweep
from train_head.sweep.config import SearchName
from train_head.sweep.plan import plan_sweep
from train_head.train import train_head

pytestmark = pytest.mark.unit


def test_sweep_fits_the_baseline_as_training_does(noisy: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    result = sweep(make_sweep(noisy, tmp_path / "out", "units=4,8"), quiet)
    rows = {row["name"]: row for row in result["baselines"]}
    assert list(rows) == ["ridge, mixed0", "largest class"]
    single = make_config(noisy, tmp_path / "single", solver=SolverName.RIDGE, pool=Pool.AVG)
    metrics = train_head(single, quiet)
    assert rows["ridge, mixed0"]["metric"] == metrics["val_accuracy"]
    run = Run(Path(rows["ridge, mixed0"]["run"]))
    assert run.record.head == Run(single.run).record.head
    assert (result["num_heads"], len(result["trials"]), result["selection"]["num_heads"]) == (2, 2, 3)
    assert sum(row["status"] == "baseline" for row in read_table(tmp_path / "out")) == 2


def test_sweep_keeps_a_baseline_that_is_better_than_all_heads(
    noisy: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = make_sweep(noisy, tmp_path / "out", "learning-rate=1e-7,1e38")
    result = sweep(config, quiet)
    assert (result["best"]["name"], result["best"]["run"]) == ("ridge, mixed0", str(config.out / "best"))
    best = Run(config.out / "best")
    assert (best.record.solver, best.options["pool"]) == ("ridge", "avg")
    assert best.metrics["selection"]["num_heads"] == 3
    features = best.open_store().read(best.open_store().examples)
    assert best.predict_proba(features).shape == (len(features), 2)
    again = sweep(config, quiet)
    assert again["best"] == result["best"]


def test_sweep_over_solvers_fits_ridge_once_and_the_others_with_each_value(
    noisy: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    result = sweep(make_sweep(noisy, tmp_path / "out", "solver=reduced,ridge", "units=0,4"), quiet)
    names = {row["name"] for row in result["trials"]}
    assert names == {"solver-reduced_units-0", "solver-reduced_units-4", "solver-ridge"}
    assert {row["values"].get("units") for row in result["trials"]} == {0, 4, None}
    linear = next(row for row in result["trials"] if row["values"].get("units") == 0)
    assert Run(Path(linear["run"])).read_head().hidden_kernel is None


def test_plan_of_dropouts_has_one_linear_head(noisy: FeatureStore, tmp_path: Path) -> None:
    config = make_sweep(noisy, tmp_path / "out", "solver=reduced", "units=0,4", "dropout=0.2,0.5")
    assert [candidate.name for candidate in plan_sweep(config).candidates] == [
        "solver-reduced_units-0",
        "solver-reduced_units-4_dropout-0.2",
        "solver-reduced_units-4_dropout-0.5",
    ]


def test_plan_has_a_baseline_for_each_cut_unless_it_is_a_candidate(cuts: Path, tmp_path: Path) -> None:
    planned = plan_sweep(make_sweep(cuts, tmp_path / "out", "units=4")).baselines
    assert [(found.name, found.config.pool) for found in planned] == [
        ("ridge, mixed5", Pool.AVG),
        ("ridge, mixed7", Pool.AVG),
    ]
    assert len({found.config.run for found in planned}) == 2
    same = plan_sweep(make_sweep(cuts, tmp_path / "out", "solver=reduced,ridge", "pool=avg"))
    assert same.baselines == []
    assert len(same.candidates) == 4
    joined = make_sweep(cuts, tmp_path / "out", "solver=reduced,ridge", "pool=avg", "cut=mixed5+mixed7")
    assert plan_sweep(joined).baselines == []


def test_search_fits_the_baseline_beside_its_trials(noisy: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    config = make_sweep(
        noisy, tmp_path / "out", "solver=reduced,ridge", "units=4..64", search=SearchName.OPTUNA, trials=4
    )
    result = sweep(config, quiet)
    assert result["selection"]["num_heads"] == 5
    assert np.isfinite(result["best"]["metric"])
    assert [row["name"] for row in result["baselines"]][-1] == "largest class"
