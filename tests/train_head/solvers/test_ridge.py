"""The ridge solver: leave-one-out scores, copies and views, its kinds of inputs, calibration and small problems."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.terminal import Console
from features.store import FeatureStore
from features.validation_split import encode_labels
from tests.train_head.synthetic import add_views, hash_text, list_paths, make_store
from tests.train_head.training import make_config
from train_head.config import ClassWeight, SolverName
from train_head.data.batches import weigh_examples
from train_head.data.split import split_examples
from train_head.solvers import Fit, Problem, ridge
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.least_squares import LeastSquares, fit_least_squares, make_targets
from train_head.solvers.network import compute_probabilities
from train_head.solvers.ridge import fit_ridge

pytestmark = pytest.mark.unit

LABELS = ["ants", "bees", "cats", "dogs", "owls"]


def draw_store(
    folder: Path, num_classes: int, num_pictures: int, shape: Sequence[int], *, shift: float = 0.7, **options: Any
) -> FeatureStore:
    """Make a store whose features are shifted by class, with one training picture more in every other class."""
    labels = LABELS[:num_classes]
    counts = {f"train/{label}": num_pictures + number % 2 for number, label in enumerate(labels)}
    paths = list_paths(counts | {f"validation/{label}": 3 for label in labels})
    rng = np.random.default_rng(3)
    means = rng.normal(0, shift, (num_classes, *shape))
    numbers = [labels.index(path.split("/")[1]) for path in paths]
    features = rng.normal(1, 0.7, (len(paths), *shape)) + means[numbers]
    return make_store(folder, paths, features=features, **options)


def make_problem(store: FeatureStore, **options: Any) -> Problem:
    config = make_config(store, store.path / "run", solver=SolverName.RIDGE, **options)
    return Problem(store, split_examples(store.examples, 0.2), config)


def fit(problem: Problem, quiet: Console) -> Fit:
    return fit_ridge(problem, Checkpoint(None), quiet)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[LeastSquares]:
    """List to which each least-squares fit of the solver is added."""
    found: list[LeastSquares] = []

    def record(*arguments: Any) -> LeastSquares:
        found.append(fit_least_squares(*arguments))
        return found[-1]

    monkeypatch.setattr(ridge, "fit_least_squares", record)
    return found


def refit_without_each(
    features: NDArray[Any], targets: NDArray[Any], weights: NDArray[Any], contents: NDArray[Any], penalty: float
) -> NDArray[np.float64]:
    """Compute the score of each row from a refit without the rows of the same content."""
    exact = features.reshape(len(features), -1).astype(np.float64)
    mean = weights @ exact / weights.sum()
    scale = weights @ ((exact - mean) ** 2).sum(axis=1) / weights.sum()
    extended = np.c_[exact, np.ones(len(exact))]
    damping = np.diag([*[penalty * scale] * exact.shape[1], 0.0])
    scores = np.empty_like(targets)
    for content in np.unique(contents):
        others = contents != content
        rows, row_weights = extended[others], weights[others, None]
        solved = np.linalg.solve(rows.T @ (row_weights * rows) + damping, rows.T @ (row_weights * targets[others]))
        scores[~others] = extended[~others] @ solved
    return scores


@pytest.mark.parametrize("shape", [(3,), (4, 4, 3)], ids=["n>d", "n<d"])
@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("class_weight", list(ClassWeight))
def test_fit_leave_one_out_scores_equal_refits_without_each_picture(
    tmp_path: Path,
    quiet: Console,
    fits: list[LeastSquares],
    shape: tuple[int, ...],
    num_classes: int,
    class_weight: ClassWeight,
) -> None:
    store = draw_store(tmp_path / "store", num_classes, 5, shape)
    problem = make_problem(store, class_weight=class_weight)
    fitted = fit(problem, quiet)
    numbers = encode_labels(problem.split.train, problem.split.classes)
    targets, contents = make_targets(numbers, num_classes), np.arange(len(numbers))
    features = store.read(problem.split.train)
    weights = weigh_examples(numbers, class_weight).astype(np.float64)
    assert (len(set(weights)) == 1) == (class_weight is ClassWeight.NONE)
    scores = refit_without_each(features, targets, weights, contents, fits[0].penalty)
    # Reduced features are rounded to float32.
    np.testing.assert_allclose(fits[0].scores, scores, atol=5e-6 if fitted.reduction else 1e-6)
    assert fitted.leave_one_out
    assert fitted.leave_one_out.penalty == fits[0].penalty


def test_fit_leaves_copies_out_together(tmp_path: Path, quiet: Console, fits: list[LeastSquares]) -> None:
    counts = {"train/cats": 6, "train/dogs": 6, "validation/cats": 2, "validation/dogs": 2}
    paths = list_paths(counts)
    contents = [hash_text(path) for path in paths]
    # A cat is stored twice as a cat and once as a dog.
    contents[1] = contents[7] = contents[0]
    features = np.random.default_rng(0).normal(0, 1, (len(paths), 2, 2, 5))
    features[[1, 7]] = features[0]
    store = make_store(tmp_path / "store", paths, features=features, contents=contents)
    problem = make_problem(store)
    fitted = fit(problem, quiet)
    train = problem.split.train
    numbers = encode_labels(train, problem.split.classes)
    hashes = np.array([int.from_bytes(example.content_hash[:6], "big") for example in train])
    scores = refit_without_each(
        store.read(train), make_targets(numbers, 2), np.ones(len(train)), hashes, fits[0].penalty
    )
    assert len(fits[0].scores) == 10
    order = np.unique(hashes, return_index=True)[1]
    np.testing.assert_allclose(fits[0].scores, scores[order], atol=1e-6)
    assert fitted.train_probabilities.shape == (12, 2)


def test_fit_leaves_all_views_of_a_picture_out_together(
    tmp_path: Path, quiet: Console, fits: list[LeastSquares]
) -> None:
    paths = list_paths({"train/cats": 6, "train/dogs": 6, "validation/cats": 2, "validation/dogs": 2})
    store = add_views(make_store(tmp_path / "store", paths), dict.fromkeys(paths[:9], [1, 2]))
    problem = make_problem(store, views=3)
    fit(problem, quiet)
    rows = sorted(problem.list_training_rows(), key=lambda row: (row.content_hash, row.view))
    contents = np.unique([row.content_hash for row in rows], return_inverse=True)[1]
    # The views of a picture share its weight of 1.
    weights = 1 / np.bincount(contents)[contents]
    targets = make_targets(encode_labels(rows, problem.split.classes), 2)
    scores = refit_without_each(store.read(rows), targets, weights, contents, fits[0].penalty)
    np.testing.assert_allclose(fits[0].scores, scores, atol=1e-5)


def test_fit_on_features_on_all_directions_and_on_a_sketch_agree(
    tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = draw_store(tmp_path / "store", 3, 12, (2, 2, 2))
    plain = fit(make_problem(store), quiet)
    assert plain.reduction is None
    assert plain.weights.input_kernel.shape == (8, 3)
    reduced = fit(make_problem(store, rank=8), quiet)
    assert reduced.reduction
    np.testing.assert_allclose(reduced.validation_probabilities, plain.validation_probabilities, atol=1e-4)

    wide = draw_store(tmp_path / "wide", 2, 12, (4, 4, 3))
    exact = fit(make_problem(wide), quiet)
    assert exact.reduction
    assert exact.reduction.expansion.coefficients is not None
    for module in ("solvers.ridge", "reduction.reduce"):
        monkeypatch.setattr(f"train_head.{module}.MAX_EXACT_ROWS", 8)
    monkeypatch.setattr("train_head.solvers.ridge.DEFAULT_SKETCH_RANK", 25)
    sketched = fit(make_problem(wide), quiet)
    assert sketched.reduction
    assert sketched.reduction.expansion.directions is not None
    np.testing.assert_allclose(sketched.validation_probabilities, exact.validation_probabilities, atol=1e-3)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_fit_probabilities_agree_with_new_pictures(tmp_path: Path, quiet: Console, num_classes: int) -> None:
    # The classes overlap, so that well calibrated probabilities are far from 1.
    store = draw_store(tmp_path / "store", num_classes, 80, (6,), shift=0.35)
    problem = make_problem(store)
    fitted = fit(problem, quiet)
    rng = np.random.default_rng(3)
    means = rng.normal(0, 0.35, (num_classes, 6))
    numbers = np.arange(3000) % num_classes
    features = np.random.default_rng(9).normal(1, 0.7, (3000, 6)) + means[numbers]
    logits = features @ fitted.weights.input_kernel + fitted.weights.output_bias
    probabilities = compute_probabilities(logits.astype(np.float32))
    right = (probabilities.argmax(axis=1) == numbers).mean()
    assert 0.5 < right < 0.97
    assert probabilities.max(axis=1).mean() == pytest.approx(right, abs=0.04)
    assert fitted.leave_one_out
    assert fitted.leave_one_out.num_right / len(problem.split.train) == pytest.approx(right, abs=0.05)
    (row,) = fitted.history
    assert (row.epoch, fitted.kept_epoch) == (1, 1)
    targets = encode_labels(problem.split.validation, problem.split.classes)
    given = fitted.validation_probabilities[np.arange(len(targets)), targets]
    assert row.val_loss == pytest.approx(-np.log(given).mean(), rel=1e-4)


def test_fit_with_balanced_weights_predicts_the_rare_class_more_often(tmp_path: Path, quiet: Console) -> None:
    paths = list_paths({"train/cats": 60, "train/dogs": 12, "validation/cats": 40, "validation/dogs": 40})
    features = np.random.default_rng(0).normal(0, 1, (len(paths), 4))
    features[["dogs" in path for path in paths]] += 0.6
    store = make_store(tmp_path / "store", paths, features=features)
    shares = [
        (fit(make_problem(store, class_weight=weight), quiet).validation_probabilities.argmax(axis=1) == 1).mean()
        for weight in (ClassWeight.NONE, ClassWeight.BALANCED)
    ]
    assert shares[0] < 0.3 < shares[1]


@pytest.mark.parametrize(
    ("num_classes", "num_pictures", "shape", "shift"),
    [(2, 2, (2, 2, 3), 1.0), (5, 1, (3,), 1.0), (5, 1, (4, 4, 3), 1.0), (2, 8, (2, 2, 3), 0.0), (3, 20, (3,), 50.0)],
    ids=["two pictures", "one picture, few inputs", "one picture", "no signal", "all right"],
)
def test_fit_small_or_extreme_problem_is_finite(
    tmp_path: Path, quiet: Console, num_classes: int, num_pictures: int, shape: tuple[int, ...], shift: float
) -> None:
    fitted = fit(make_problem(draw_store(tmp_path / "store", num_classes, num_pictures, shape, shift=shift)), quiet)
    assert all(np.isfinite(array).all() for array in fitted.weights.list_weights())
    np.testing.assert_allclose(fitted.validation_probabilities.sum(axis=1), 1, atol=1e-5)
    assert fitted.history[0].is_finite
    if shift > 10:
        assert fitted.history[0].val_accuracy == 1
        assert fitted.history[0].val_loss < 0.1


def test_fit_constant_features_predicts_the_shares_of_the_classes(tmp_path: Path, quiet: Console) -> None:
    paths = list_paths({"train/cats": 30, "train/dogs": 10, "validation/cats": 2, "validation/dogs": 2})
    store = make_store(tmp_path / "store", paths, features=np.full((len(paths), 2, 2, 3), 1.5))
    fitted = fit(make_problem(store), quiet)
    np.testing.assert_allclose(fitted.validation_probabilities, [[0.75, 0.25]] * 4, atol=0.02)


def test_fit_of_500_classes_is_finite(tmp_path: Path, quiet: Console) -> None:
    labels = [f"class {number:03}" for number in range(500)]
    paths = [
        f"{split}/{label}/{n}.jpg"
        for split, num in (("train", 2), ("validation", 1))
        for label in labels
        for n in range(num)
    ]
    numbers = np.array([labels.index(path.split("/")[1]) for path in paths])
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1, (500, 40))[numbers] + rng.normal(0, 0.2, (len(paths), 40))
    store = make_store(tmp_path / "store", paths, features=features, rows_per_shard=1000)
    fitted = fit(make_problem(store), quiet)
    assert fitted.validation_probabilities.shape == (500, 500)
    assert fitted.history[0].val_accuracy > 0.5
    assert np.isfinite(fitted.history[0].val_loss)
