"""Training, runs and predictions with several labels for each picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import HeadstartError
from base.terminal import Console
from features.store import FeatureStore
from tests.commands import run_command
from tests.errors import raises
from tests.train_head.multi_label import SETS, make_multi_label_store, relabel, write_labels
from tests.train_head.synthetic import CLASSES
from tests.train_head.training import make_config
from train_head.config import ClassWeight, OptimizerName, SolverName
from train_head.runs.read import Run
from train_head.solvers import Fit, Problem
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.full import fit_full
from train_head.solvers.head import build_head, plan_outputs
from train_head.solvers.network import compute_losses, compute_probabilities, count_correct
from train_head.solvers.reduced import fit_reduced
from train_head.train import train_head


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Store with every set of three labels, six times."""
    return make_multi_label_store(tmp_path_factory.mktemp("labels") / "store", SETS * 6)


def train(store: FeatureStore, run: Path, console: Console, **options: Any) -> Run:
    train_head(make_config(store, run, **{"epochs": 40, "units": 16, **options}), console)
    return Run(run)


def test_train_on_separable_labels_predicts_every_label(store: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    run = train(store, tmp_path / "run", quiet, no_report=False, epochs=60, dropout=0.0)
    metrics = run.read_metrics()
    assert run.is_multi_label
    assert run.classes == CLASSES
    assert metrics["val_accuracy"] == metrics["mean_average_precision"] == metrics["micro_f1"] == 1
    assert metrics["evaluation"]["is_multi_label"]
    for found in run.read_predictions():
        assert found.predicted == found.label
    targets, probabilities = run.read_probabilities()
    assert targets.shape == probabilities.shape == (metrics["num_validation"], 3)
    assert (probabilities.sum(axis=1) > 1.5).any()


def test_run_with_several_labels_predicts_probabilities_from_features(
    store: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    run = train(store, tmp_path / "run", quiet)
    _, recorded = run.read_probabilities()
    features, targets = store.to_numpy("validation")
    np.testing.assert_allclose(run.predict_proba(features), recorded, atol=1e-5)
    assert np.array_equal(run.read_probabilities()[0], targets)


def test_train_on_several_labels_twice_gives_the_same_head_from_any_order_of_pictures(
    store: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    other = make_multi_label_store(tmp_path / "reversed", SETS * 6, is_reversed=True)
    assert [e.row for e in other.examples] != [e.row for e in store.examples]
    first, second = (train(each, tmp_path / f"run{n}", quiet, patience=3) for n, each in enumerate((store, other)))
    assert first.record.head == second.record.head


def test_compute_losses_of_labels_equals_keras() -> None:
    import keras

    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(7, 4)).astype(np.float32) * 3, (rng.random((7, 4)) < 0.4).astype(np.uint8)
    losses, gradients = compute_losses(logits, targets)
    probabilities = compute_probabilities(logits, is_multi_label=True)
    expected = keras.ops.binary_crossentropy(targets.astype(np.float32), probabilities)
    np.testing.assert_allclose(losses, np.asarray(expected), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradients, probabilities - targets, atol=1e-6)
    assert count_correct(logits, targets) == int(((probabilities >= 0.5) == targets).all(axis=1).sum())


@pytest.mark.parametrize("units", [0, 6])
@pytest.mark.parametrize("class_weight", list(ClassWeight))
def test_fits_of_both_solvers_with_several_labels_agree(
    store: FeatureStore, quiet: Console, monkeypatch: pytest.MonkeyPatch, units: int, class_weight: ClassWeight
) -> None:
    """Start both from the same head within the span of the features, on all inputs: they must take the same steps."""
    config = make_config(
        store,
        Path("run"),
        epochs=3,
        units=units,
        dropout=0.0,
        optimizer=OptimizerName.SGD,
        learning_rate=0.1,
        class_weight=class_weight,
        l2=0.01,
    )
    from train_head.prepare import split_store

    problem = Problem(store, split_store(store, config), config)
    outputs = plan_outputs(3, is_multi_label=True)
    start = build_head(store.feature_shape, outputs, units, 0.0, config.seed)

    def draw(num_inputs: int, rank: int, *_: object) -> Any:
        from train_head.solvers.head import extract_weights

        assert num_inputs == rank
        return extract_weights(start)

    monkeypatch.setattr("train_head.solvers.reduced.draw_head", draw)
    reduced, full = (_fit(solve, problem, quiet) for solve in (_fit_on_all_inputs(monkeypatch), fit_full))
    for mine, theirs in zip(reduced.history, full.history, strict=True):
        assert mine.loss == pytest.approx(theirs.loss, rel=1e-4)
        assert mine.val_loss == pytest.approx(theirs.val_loss, rel=1e-4)
        assert mine.val_accuracy == pytest.approx(theirs.val_accuracy)
    np.testing.assert_allclose(reduced.validation_probabilities, full.validation_probabilities, atol=1e-4)


def _fit(solve: Any, problem: Problem, console: Console) -> Fit:
    fit: Fit = solve(problem, Checkpoint(None), console)
    return fit


def _fit_on_all_inputs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the reduced solver on the features themselves instead of their principal directions."""
    from train_head.reduction.reduce import reduce_features as original

    def keep_features(store: FeatureStore, *args: Any) -> Any:
        found = original(store, *args)
        own = store.read(found.train.examples), store.read(found.validation.examples)
        train, validation = (part.reshape(len(part), -1).astype(np.float32) for part in own)
        return replace(found, factors=replace(found.factors, train=train, validation=validation))

    monkeypatch.setattr("train_head.solvers.reduced.reduce_features", keep_features)
    return fit_reduced


def test_train_with_folds_and_repeats_reports_each(store: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    metrics = train(store, tmp_path / "run", quiet, folds=3, repeats=2, epochs=5).read_metrics()
    assert len(metrics["folds"]["val_accuracies"]) == 6
    assert len(metrics["repeats"]["val_accuracies"]) == 2


def test_train_names_the_exact_match_and_the_mean_average_precision(store: FeatureStore, tmp_path: Path) -> None:
    paths = ["--store", str(store.path), "--run", str(tmp_path / "run"), "--solver", "reduced", "--units", "4"]
    result = run_command("train_head.__main__", *paths, "--no-report", "--json")
    assert result.status == 0
    assert result.json["is_multi_label"]
    assert {"mean_average_precision", "mean_average_precision_interval", "micro_f1"} <= result.json.keys()
    listed = run_command("train_head.runs.__main__", str(tmp_path), "--json").json["runs"]
    assert [run["mean_average_precision"] for run in listed] == [result.json["mean_average_precision"]]


def test_train_on_many_labels_keeps_the_probabilities_in_a_file(tmp_path: Path, quiet: Console) -> None:
    store = make_multi_label_store(tmp_path / "store", SETS * 20)
    names = [f"{number:03}" for number in range(120)]
    with_many = [
        "|".join(sorted({names[number % 120], names[(7 * number) % 120]})) for number in range(len(store.examples))
    ]
    store = write_labels(store, with_many)
    run = train(store, tmp_path / "run", quiet, epochs=2)
    targets, probabilities = run.read_probabilities()
    assert targets.shape == probabilities.shape == (len(run.read_predictions()), len(run.classes))
    assert run.read_metrics()["per_class"].keys() == set(run.classes)


def test_train_on_five_pictures_with_several_labels_gives_a_run(tmp_path: Path, quiet: Console) -> None:
    store = make_multi_label_store(tmp_path / "store", ["c", "d", "cd", "", "c"])
    metrics = train(store, tmp_path / "run", quiet, epochs=2, no_report=False).read_metrics()
    assert metrics["num_train"] + metrics["num_validation"] == 5
    assert metrics["classes"] == ["cats", "dogs"]


def test_train_without_any_label_fails_before_a_fit(tmp_path: Path, quiet: Console) -> None:
    store = make_multi_label_store(tmp_path / "store", [""] * 5)
    with raises(HeadstartError, where="the training pictures"):
        train(store, tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()


def test_run_is_trained_again_if_the_labels_changed(tmp_path: Path, quiet: Console) -> None:
    own = make_multi_label_store(tmp_path / "store", SETS * 6)
    first = train(own, tmp_path / "run", quiet, epochs=2).record.head
    changed = relabel(own, [*(SETS * 6)[1:], "cdo"])
    assert train(changed, tmp_path / "run", quiet, epochs=2).record.head != first


def test_run_with_several_labels_that_was_edited_is_refused(
    store: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    run = train(store, tmp_path / "run", quiet, epochs=2)
    text = (run.folder / "predictions.csv").read_text()
    (run.folder / "predictions.csv").write_text(text.replace("cats", "lions"))
    with raises(HeadstartError, where=run.folder / "predictions.csv"):
        run.read_predictions()


def test_full_solver_trains_on_several_labels(store: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    run = train(store, tmp_path / "run", quiet, solver=SolverName.FULL, epochs=20, dropout=0.0)
    assert run.read_metrics()["mean_average_precision"] > 0.9
    assert run.read_head().output_kernel.shape[1] == 3


@pytest.mark.parametrize("class_weight", list(ClassWeight))
def test_ridge_solver_fits_each_label_with_its_own_scale(
    store: FeatureStore, tmp_path: Path, quiet: Console, class_weight: ClassWeight
) -> None:
    run = train(store, tmp_path / "run", quiet, solver=SolverName.RIDGE, class_weight=class_weight)
    metrics = run.read_metrics()
    assert metrics["val_accuracy"] == metrics["mean_average_precision"] == 1
    assert metrics["ridge"]["leave_one_out_accuracy"] == 1
    features, targets = store.to_numpy("validation")
    assert np.array_equal(run.predict_proba(features) >= 0.5, targets)
