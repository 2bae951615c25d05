"""HeadClassifier: scikit-learn's estimator checks, agreement with `train_head`, and parameters."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from base.errors import UsageError
from base.terminal import Console
from features.cuts import open_store
from features.options import Pool
from features.store import FeatureStore
from tests.errors import raises
from tests.train_head import fits
from tests.train_head.synthetic import list_paths, make_store
from tests.train_head.training import make_config
from train_head.classifier import EstimatorError, HeadClassifier
from train_head.config import HeadConfig, OptimizerName, SolverName
from train_head.data.split import split_examples
from train_head.solvers import Problem
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.history import DivergedError
from train_head.solvers.reduced import fit_reduced
from train_head.solvers.ridge import fit_ridge

SMALL: dict[str, Any] = {"units": 16, "learning_rate": 0.01, "epochs": 10}
RENAMED = {"random_state": "seed", "validation_fraction": "validation_split"}
ROOT = Path(__file__).parents[2]


def make_blobs(num_rows: int = 60, num_classes: int = 3, num_inputs: int = 40) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return float16 features whose means differ by class, and labels."""
    rng = np.random.default_rng(4)
    targets = np.arange(num_rows) % num_classes
    features = rng.normal(0, 0.5, (num_rows, num_inputs)) + rng.normal(0, 0.4, (num_classes, num_inputs))[targets]
    return features.astype(np.float16), np.array(["cats", "dogs", "owls"])[targets]


# Keras compiles a model for each fit, so the full solver has a small head here.
@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [
        HeadClassifier(),
        HeadClassifier(solver="ridge"),
        HeadClassifier(solver="full", units=16, learning_rate=0.03, epochs=8, batch_size=50),
    ]
)
def test_estimator_check_passes(estimator: HeadClassifier, check: Callable[..., None]) -> None:
    check(estimator)


@pytest.mark.unit
def test_defaults_are_those_of_the_command_line() -> None:
    expected = HeadConfig()
    for name, parameter in inspect.signature(HeadClassifier).parameters.items():
        if name != "class_weight":
            assert parameter.default == getattr(expected, RENAMED.get(name, name)), name


@pytest.mark.parametrize("num_classes", [2, 3])
def test_reduced_solver_fits_same_head_as_train(tmp_path: Path, num_classes: int, quiet: Console) -> None:
    labels = ["cats", "dogs", "owls"][:num_classes]
    counts = {f"{split}/{label}": count for split, count in (("train", 9), ("validation", 5)) for label in labels}
    store = make_store(tmp_path / "store", list_paths(counts))
    config = make_config(store, tmp_path / "run", optimizer=OptimizerName.ADAM)
    split = split_examples(store.examples, 0.2)
    expected = fit_reduced(Problem(store, split, config), Checkpoint(None), quiet)
    names = ("solver", "units", "dropout", "epochs", "batch_size", "learning_rate", "optimizer")
    options = {name: getattr(config, name) for name in names}

    classifier = HeadClassifier(**options, random_state=config.seed)
    classifier.fit(store.read(split.train), [example.label for example in split.train])

    np.testing.assert_allclose(classifier.history_["loss"], [row.loss for row in expected.history], rtol=1e-5)
    mine = classifier.predict_proba(store.read(split.validation))
    np.testing.assert_allclose(mine, expected.validation_probabilities, atol=1e-5)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("shape", [(4,), (4, 4, 6)], ids=["n>d", "n<d"])
def test_ridge_fits_same_head_as_train(
    tmp_path: Path, num_classes: int, shape: tuple[int, ...], quiet: Console
) -> None:
    labels = ["cats", "dogs", "owls"][:num_classes]
    paths = list_paths({f"{part}/{label}": 9 for part in ("train", "validation") for label in labels})
    features = np.random.default_rng(0).normal(0, 1, (len(paths), *shape))
    store = make_store(tmp_path / "store", paths, features=features)
    split = split_examples(store.examples, 0.2)
    config = make_config(store, tmp_path / "run", solver=SolverName.RIDGE)
    expected = fit_ridge(Problem(store, split, config), Checkpoint(None), quiet)
    # Parameters that ridge ignores.
    classifier = HeadClassifier(solver="ridge", patience=5, epochs=3)
    classifier.fit(store.read(split.train), [example.label for example in split.train])
    assert expected.leave_one_out
    assert (classifier.solver_, classifier.penalty_) == ("ridge", expected.leave_one_out.penalty)
    mine = classifier.predict_proba(store.read(split.validation))
    np.testing.assert_allclose(mine, expected.validation_probabilities, atol=1e-5)
    assert classifier.history_["loss"] == pytest.approx([expected.history[0].loss], rel=1e-4)
    assert classifier.head_.hidden_kernel is None


@pytest.mark.parametrize("solver", ["reduced", "full"])
def test_fit_without_units_is_a_linear_head(solver: str) -> None:
    features, labels = make_blobs()
    classifier = HeadClassifier(**SMALL | {"units": 0, "learning_rate": 0.05}, solver=solver).fit(features, labels)
    assert classifier.head_.hidden_kernel is None
    assert classifier.head_.output_kernel.shape == (40, 3)
    assert classifier.score(features, labels) > 0.8


def test_full_solver_fits_same_head_as_train(three_classes: FeatureStore, tmp_path: Path, quiet: Console) -> None:
    config = make_config(three_classes, tmp_path / "run", solver=SolverName.FULL, dropout=0.0, l2=0.01)
    expected = fits.fit(three_classes, config, quiet)
    split = split_examples(three_classes.examples, 0.2)
    options = {name: getattr(config, name) for name in ("solver", "units", "epochs", "batch_size", "l2")}

    classifier = HeadClassifier(**options, dropout=0.0, learning_rate=0.01, random_state=config.seed)
    classifier.fit(three_classes.read(split.train), [example.label for example in split.train])

    np.testing.assert_allclose(classifier.history_["loss"], [row.loss for row in expected.history], rtol=1e-4)
    mine = classifier.predict_proba(three_classes.read(split.validation))
    np.testing.assert_allclose(mine, expected.validation_probabilities, atol=1e-4)
    copy = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(copy.predict_proba(three_classes.read(split.validation)), mine)


@pytest.mark.unit
def test_fit_flattens_features() -> None:
    features, labels = make_blobs()
    flat = HeadClassifier(**SMALL).fit(features, labels)
    shaped = HeadClassifier(**SMALL).fit(features.reshape(-1, 2, 2, 10), labels)
    assert shaped.n_features_in_ == 40
    np.testing.assert_array_equal(shaped.predict_proba(features.reshape(-1, 2, 2, 10)), flat.predict_proba(features))


@pytest.mark.parametrize(
    ("num_rows", "rank"), [(60, None), (60, 7), (4200, None), (4200, 12)], ids=["gram", "rank", "sketch", "both"]
)
def test_reduced_solver_expands_head_to_all_inputs(num_rows: int, rank: int | None) -> None:
    features, labels = make_blobs(num_rows)
    classifier = HeadClassifier(**SMALL, rank=rank, dropout=0.0, batch_size=num_rows // 6).fit(features, labels)
    hidden_kernel = classifier.head_.input_kernel
    assert hidden_kernel.shape == (40, 16)
    assert np.linalg.matrix_rank(hidden_kernel) <= (rank or 40)
    assert classifier.score(features, labels) >= classifier.history_["accuracy"][-1] - 0.02
    assert classifier.score(features, labels) > 0.8


@pytest.mark.unit
def test_fit_depends_on_random_state_alone() -> None:
    features, labels = make_blobs()

    def predict(state: Any) -> Any:
        return HeadClassifier(**SMALL, random_state=state).fit(features, labels).decision_function(features)

    np.testing.assert_array_equal(predict(3), predict(3))
    np.testing.assert_array_equal(predict(np.random.RandomState(3)), predict(np.random.RandomState(3)))
    assert (predict(3) != predict(4)).any()


@pytest.mark.unit
def test_fit_with_patience_sets_rows_aside_and_keeps_best_epoch() -> None:
    features, labels = make_blobs(90)
    options = SMALL | {"epochs": 200, "patience": 3, "learning_rate": 0.05}
    classifier = HeadClassifier(**options).fit(features, labels)
    losses = classifier.history_["val_loss"]
    assert classifier.n_iter_ == len(losses) == classifier.kept_epoch_ + 3 < 200
    assert classifier.kept_epoch_ == np.argmin(losses) + 1
    assert set(HeadClassifier(**SMALL).fit(features, labels).history_) == {"loss", "accuracy"}


def test_fit_with_class_weight_predicts_rare_class_more_often() -> None:
    features, labels = make_blobs(300, 2)
    rare = np.r_[0:300:2, 1:300:20]
    noise = np.random.default_rng(0).normal(0, 2, (len(rare), 40)).astype(np.float16)

    def count(class_weight: Any) -> int:
        classifier = HeadClassifier(**SMALL, class_weight=class_weight).fit(features[rare] + noise, labels[rare])
        return int((classifier.predict(features) == "dogs").sum())

    assert count(None) < count("balanced")
    assert count({"cats": 1.0, "dogs": 0.001}) < count(None)


def test_classifier_works_in_pipeline_grid_search_and_clone() -> None:
    features, labels = make_blobs()
    pipeline = make_pipeline(StandardScaler(), HeadClassifier(**SMALL))
    search = GridSearchCV(pipeline, {"headclassifier__dropout": [0.0, 0.5], "headclassifier__rank": [5, None]}, cv=3)
    search.fit(features.astype(np.float32), labels)
    assert search.best_score_ > 0.9
    copy = clone(search.best_estimator_[-1])
    assert copy.get_params() == search.best_estimator_[-1].get_params()
    assert not hasattr(copy, "head_")


def test_classifier_cross_validates_on_pooled_features_of_a_store(three_classes: FeatureStore) -> None:
    store = open_store(three_classes.path, "", Pool.AVG)
    features, labels = store.read(store.examples), [example.label for example in store.examples]
    assert features.shape == (42, 3)
    scores = cross_val_score(HeadClassifier(**SMALL | {"epochs": 40}), features, labels, cv=3)
    assert scores.mean() > 0.9


def test_auto_is_the_reduced_solver() -> None:
    features, labels = make_blobs()
    assert HeadClassifier(**SMALL).fit(features, labels).solver_ == "reduced"


def test_auto_and_reduced_solvers_do_not_import_tensorflow() -> None:
    code = """
import sys
import numpy as np
from train_head.classifier import HeadClassifier
X, y = np.eye(6, dtype=np.float32), [0, 1] * 3
for solver in ("auto", "reduced"):
    HeadClassifier(solver=solver, units=4, epochs=1).fit(X, y).predict(X)
assert not {"tensorflow", "keras"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("solver", "rigde"),
        ("optimizer", "adamw"),
        ("units", -1),
        ("units", 2.5),
        ("epochs", True),
        ("batch_size", "20"),
        ("patience", -1),
        ("rank", 0),
        ("dropout", 1.0),
        ("momentum", 0.9),
        ("l2", -1.0),
        ("l2", float("inf")),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("validation_fraction", 1.0),
        ("class_weight", "none"),
    ],
)
@pytest.mark.unit
def test_fit_with_invalid_parameter_fails(name: str, value: Any) -> None:
    classifier = HeadClassifier(**{name: value})
    with raises(EstimatorError, where=name, got=repr(value)):
        classifier.fit(*make_blobs())
    assert issubclass(EstimatorError, UsageError)
    assert issubclass(EstimatorError, ValueError)


@pytest.mark.parametrize("options", [{"rank": 41}, {"rank": 5, "solver": "full"}])
@pytest.mark.unit
def test_fit_with_impossible_rank_fails(options: dict[str, Any]) -> None:
    with raises(EstimatorError, where="rank", got=options["rank"]):
        HeadClassifier(**options).fit(*make_blobs())


@pytest.mark.parametrize("solver", ["reduced", "full"])
def test_fit_with_infinite_loss_fails_in_first_epoch_and_warns_later(solver: str) -> None:
    features, labels = make_blobs()
    options = SMALL | {"solver": solver, "optimizer": "sgd", "l2": 5.0, "dropout": 0.0}
    with raises(DivergedError, where="epoch 1"):
        HeadClassifier(**options | {"learning_rate": 1e30}).fit(features, labels)
    # Each step multiplies the kernels by about 1 - 2 * 0.3 * 5 = -2, so that their squares eventually overflow.
    with pytest.warns(ConvergenceWarning):
        classifier = HeadClassifier(**options | {"learning_rate": 0.3, "epochs": 80}).fit(features, labels)
    assert 0 < classifier.kept_epoch_ == classifier.n_iter_ - 1 < 79
    assert np.isfinite(classifier.head_.sum_squares())


def test_classifier_refuses_several_labels_for_each_row() -> None:
    rng = np.random.default_rng(0)
    with raises(EstimatorError, where="y", got="an array of shape (6, 2)"):
        HeadClassifier().fit(rng.random((6, 3)), rng.integers(2, size=(6, 2)))
