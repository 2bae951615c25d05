"""The reduced solver: equal to a fit on all inputs, reproducible, resumable, early stopping, divergence."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_info

from base.terminal import Console
from features.store import FeatureStore
from tests.errors import raises
from tests.files import limit_file_size
from tests.train_head import fits
from tests.train_head.fits import FIELDS, InterruptingConsole, assert_same_weights, list_values
from tests.train_head.synthetic import CLASSES, list_paths, make_store
from tests.train_head.training import SGD_CONFIG
from train_head.config import ClassWeight, OptimizerName, TrainConfig
from train_head.data.split import Split, split_examples
from train_head.evaluation.metrics import predict_classes
from train_head.reduction.reduce import Reduced, TrainValidation, reduce_features
from train_head.solvers import Fit, Problem, ignore_epoch
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.head import HeadWeights, count_outputs
from train_head.solvers.history import DivergedError, Epoch
from train_head.solvers.network import (
    Batch,
    HeadTrainer,
    compute_logits,
    compute_losses,
    draw_mask,
    predict_targets,
)
from train_head.solvers.optimizers import make_optimizer
from train_head.solvers.reduced import _hash_rows, draw_head, fit_reduced

pytestmark = pytest.mark.unit

SHAPE = (4, 4, 3)
NUM_INPUTS = 48


def make_noisy_store(folder: Path, counts: dict[str, int]) -> FeatureStore:
    """Make a store whose classes overlap, with more inputs than pictures, so that a head overfits."""
    paths = list_paths(counts)
    rng = np.random.default_rng(11)
    features = rng.normal(0.3, 0.5, (len(paths), *SHAPE))
    for feature, path in zip(features, paths, strict=True):
        feature[..., CLASSES.index(path.split("/")[1])] += 0.25
    return make_store(folder, paths, features=features)


@pytest.fixture(scope="module")
def noisy_two(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Store with 15 cats and 8 dogs for training, and 6 of each for validation."""
    counts = {"train/cats": 15, "train/dogs": 8, "validation/cats": 6, "validation/dogs": 6}
    return make_noisy_store(tmp_path_factory.mktemp("noisy") / "two", counts)


@pytest.fixture(scope="module")
def noisy_three(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Store with 12 cats, 9 dogs and 6 owls for training, and 4 of each for validation."""
    counts = {"train/cats": 12, "train/dogs": 9, "train/owls": 6}
    counts |= {f"validation/{label}": 4 for label in CLASSES}
    return make_noisy_store(tmp_path_factory.mktemp("noisy") / "three", counts)


def split(store: FeatureStore) -> Split:
    return split_examples(store.examples, 0.2)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """Checkpoint without a file."""
    return Checkpoint(tmp_path / "checkpoints/fit-0.npz", "key")


def fit(
    store: FeatureStore,
    config: TrainConfig,
    checkpoint: Checkpoint,
    console: Console,
    on_epoch_end: Callable[[Epoch], None] = ignore_epoch,
) -> Fit:
    return fit_reduced(Problem(store, split(store), config, on_epoch_end), checkpoint, console)


def assert_same_fit(mine: Fit, theirs: Fit) -> None:
    fits.assert_same_fit(mine, theirs)
    assert mine.reduction is not None
    assert theirs.reduction is not None
    np.testing.assert_array_equal(mine.reduction.validation_logits, theirs.reduction.validation_logits)


class Dataset(NamedTuple):
    """All inputs of training or validation examples, their class numbers, and their weights in the loss."""

    inputs: NDArray[np.float32]
    targets: NDArray[np.int64]
    weights: NDArray[np.float32]


def read_datasets(store: FeatureStore, class_weight: ClassWeight) -> tuple[Dataset, Dataset]:
    datasets = []
    for examples in (split(store).train, split(store).validation):
        inputs = store.read(examples).reshape(len(examples), -1).astype(np.float32)
        targets = np.array([split(store).classes.index(example.label) for example in examples])
        datasets.append(Dataset(inputs, targets, np.ones(len(targets), np.float32)))
    train, validation = datasets
    if class_weight is ClassWeight.BALANCED:
        counts = [sum(train.targets == number) for number in range(len(split(store).classes))]
        weights = [len(train.targets) / (len(counts) * counts[number]) for number in train.targets]
        train = train._replace(weights=np.array(weights, np.float32))
    return train, validation


def draw_initial(store: FeatureStore, config: TrainConfig) -> HeadWeights:
    """Draw the initial head of a fit at full rank."""
    num_outputs = count_outputs(len(split(store).classes))
    return draw_head(NUM_INPUTS, len(split(store).train), config.units, num_outputs, config.seed)


def expand(store: FeatureStore, rank: int | None, kernel: NDArray[Any]) -> NDArray[Any]:
    """Return V A in float64 for a kernel A, with V = Xᵀ Z diag(1 / λ)."""
    parts = split(store)
    reduced = reduce_features(store, TrainValidation(parts.train, parts.validation), rank, Console())
    examples, factors = reduced.train.examples, reduced.factors
    dense = store.read(examples).reshape(len(examples), -1).astype(np.float64)
    return np.asarray(dense.T @ (factors.train[:].astype(np.float64) / factors.eigenvalues @ kernel))


def fit_on_all_inputs(store: FeatureStore, config: TrainConfig, kernel: NDArray[Any]) -> list[tuple[float, ...]]:
    """Fit the head on all inputs in NumPy from an initial kernel (inputs, units); list the values of each epoch."""
    train, validation = read_datasets(store, config.class_weight)
    start = replace(draw_initial(store, config), hidden_kernel=kernel.astype(np.float32))
    trainer = HeadTrainer(start, make_optimizer(config), config.l2)
    rows: list[tuple[float, ...]] = []
    for epoch in range(config.epochs):
        order = np.random.default_rng((config.seed, epoch)).permutation(len(train.targets))
        total, num_correct = 0.0, 0
        for begin in range(0, len(order), config.batch_size):
            batch = order[begin : begin + config.batch_size]
            step = Batch(train.inputs[batch], train.targets[batch], train.weights[batch], None)
            loss, correct = trainer.train_on_batch(step)
            total += loss * len(batch)
            num_correct += correct
        logits = compute_logits(trainer.head, validation.inputs)
        val_loss = float(compute_losses(logits, validation.targets)[0].mean()) + trainer.compute_penalty()
        val_accuracy = float(np.mean(predict_targets(logits) == validation.targets))
        rows.append((epoch + 1, total / len(order), num_correct / len(order), val_loss, val_accuracy))
    return rows


@pytest.mark.parametrize(
    ("num_classes", "changes"),
    [
        pytest.param(2, {}, id="sgd"),
        pytest.param(3, {"momentum": 0.8, "learning_rate": 0.01}, id="three-momentum"),
        pytest.param(2, {"l2": 0.01, "class_weight": ClassWeight.BALANCED}, id="l2-balanced"),
        pytest.param(3, {"batch_size": 100, "class_weight": ClassWeight.BALANCED}, id="three-one-batch-balanced"),
    ],
)
def test_fit_reduced_at_full_rank_equals_a_fit_on_all_inputs(
    request: pytest.FixtureRequest, checkpoint: Checkpoint, quiet: Console, num_classes: int, changes: dict[str, Any]
) -> None:
    store: FeatureStore = request.getfixturevalue("noisy_two" if num_classes == 2 else "noisy_three")
    config = replace(SGD_CONFIG, **changes)
    fitted = fit(store, config, checkpoint, quiet)
    kernel = expand(store, None, draw_initial(store, config).input_kernel)
    rows = fit_on_all_inputs(store, config, kernel)
    np.testing.assert_allclose(list_values(fitted), rows, rtol=2e-5)
    assert rows[-1][1] < 0.98 * rows[0][1]


def test_fit_reduced_with_dropout_draws_new_masks_in_each_step(
    noisy_two: FeatureStore, checkpoint: Checkpoint, quiet: Console
) -> None:
    config = replace(SGD_CONFIG, epochs=3, dropout=0.4)
    fitted = fit(noisy_two, config, checkpoint, quiet)
    parts = split(noisy_two)
    reduced = reduce_features(noisy_two, TrainValidation(parts.train, parts.validation), None, quiet)
    train = read_datasets(noisy_two, ClassWeight.NONE)[0]
    trainer = HeadTrainer(draw_head(NUM_INPUTS, 23, config.units, 1, config.seed), make_optimizer(config), 0.0)
    losses, drawn = [], set()
    for epoch in range(3):
        order = np.random.default_rng((config.seed, epoch)).permutation(23)
        rng = np.random.default_rng((config.seed, epoch, 2))
        total = 0.0
        for start in range(0, 23, config.batch_size):
            rows = order[start : start + config.batch_size]
            mask = draw_mask(rng, (len(rows), config.units), config.dropout)
            assert mask is not None
            drawn.add(mask.tobytes())
            batch = Batch(reduced.factors.train[rows], train.targets[rows], train.weights[rows], mask)
            total += trainer.train_on_batch(batch)[0] * len(rows)
        losses.append(total / 23)
    assert len(drawn) == 15
    assert [row.loss for row in fitted.history] == pytest.approx(losses, rel=1e-5)
    for name in FIELDS:
        np.testing.assert_allclose(getattr(fitted.weights, name), getattr(trainer.head, name), atol=1e-6)


def test_fit_reduced_returns_the_values_of_its_head_on_all_inputs(
    noisy_three: FeatureStore, checkpoint: Checkpoint, quiet: Console
) -> None:
    fitted = fit(noisy_three, replace(SGD_CONFIG, rank=9, dropout=0.3), checkpoint, quiet)
    assert fitted.reduction is not None
    assert fitted.reduction.rank == 9
    assert fitted.weights.input_kernel.shape == (9, SGD_CONFIG.units)
    kernel = expand(noisy_three, 9, fitted.weights.input_kernel)
    train, validation = read_datasets(noisy_three, ClassWeight.NONE)
    for dataset, probabilities in (
        (train, fitted.train_probabilities),
        (validation, fitted.validation_probabilities),
    ):
        hidden = np.maximum(dataset.inputs @ kernel + fitted.weights.input_bias, 0)
        logits = hidden @ fitted.weights.output_kernel + fitted.weights.output_bias
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(fitted.reduction.validation_logits, logits, atol=1e-4)
    last = fitted.history[-1]
    likelihoods = expected[np.arange(len(expected)), validation.targets]
    assert last.val_loss == pytest.approx(-np.log(likelihoods).mean(), rel=1e-4)
    assert last.val_accuracy == pytest.approx(np.mean(expected.argmax(axis=1) == validation.targets))


def test_fit_reduced_with_a_seed_is_reproducible(
    noisy_two: FeatureStore, checkpoint: Checkpoint, quiet: Console
) -> None:
    config = replace(SGD_CONFIG, dropout=0.4, optimizer=OptimizerName.ADAM, learning_rate=0.003)
    first, again = (fit(noisy_two, config, checkpoint, quiet) for _ in range(2))
    assert_same_fit(again, first)
    for other in (replace(config, seed=8), replace(config, dropout=0.0), replace(config, dropout=0.3)):
        differing = fit(noisy_two, other, checkpoint, quiet)
        assert list_values(differing) != list_values(first)
        assert not np.array_equal(differing.weights.input_kernel, first.weights.input_kernel)


@pytest.mark.parametrize("rank", [3, None])
def test_fit_reduced_of_separable_classes_classifies_all_correctly(
    three_classes: FeatureStore, checkpoint: Checkpoint, quiet: Console, rank: int | None
) -> None:
    config = replace(
        SGD_CONFIG, epochs=12, units=32, dropout=0.2, optimizer=OptimizerName.RMSPROP, learning_rate=0.01, rank=rank
    )
    fitted = fit(three_classes, config, checkpoint, quiet)
    probabilities = fitted.validation_probabilities
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert [CLASSES[number] for number in predict_classes(probabilities)] == [
        example.label for example in split(three_classes).validation
    ]
    last = fitted.history[-1]
    assert last.val_accuracy == 1.0
    assert last.accuracy > 0.9
    assert last.val_loss < 0.3 * fitted.history[0].val_loss


INTERRUPTED = replace(SGD_CONFIG, dropout=0.4, optimizer=OptimizerName.ADAM, learning_rate=0.01)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="adam"),
        pytest.param({"optimizer": OptimizerName.RMSPROP}, id="rmsprop"),
        pytest.param({"optimizer": OptimizerName.SGD, "momentum": 0.9}, id="momentum"),
        pytest.param({"patience": 3}, id="patience"),
    ],
)
def test_fit_reduced_resumed_equals_an_uninterrupted_fit(
    noisy_two: FeatureStore, tmp_path: Path, quiet: Console, changes: dict[str, Any]
) -> None:
    config, path = replace(INTERRUPTED, **changes), tmp_path / "fit.npz"
    whole_epochs: list[Epoch] = []
    expected = fit(noisy_two, config, Checkpoint(tmp_path / "other.npz", "key"), quiet, whole_epochs.append)
    assert whole_epochs == expected.history
    interrupted = Checkpoint(path, "key")
    with pytest.raises(KeyboardInterrupt):
        fit(noisy_two, config, interrupted, InterruptingConsole(4))
    state, _ = interrupted.load(0, quiet)
    assert [row.epoch for row in state.history] == [1, 2, 3]
    console = InterruptingConsole(0)
    epochs: list[Epoch] = []
    resumed = fit(noisy_two, config, Checkpoint(path, "key"), console, epochs.append)
    assert_same_fit(resumed, expected)
    # The first three epochs have the durations of the first attempt, so they were not repeated.
    assert resumed.history[:3] == state.history
    assert epochs == resumed.history
    assert console.num_epochs == len(expected.history)


@pytest.mark.usefixtures("eager")
def test_fit_reduced_ignores_a_checkpoint_in_another_basis(
    noisy_two: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fit.npz"
    with pytest.raises(KeyboardInterrupt):
        fit(noisy_two, INTERRUPTED, Checkpoint(path, "key"), InterruptingConsole(4))

    def reduce_mirrored(*arguments: Any) -> Reduced:
        reduced = reduce_features(*arguments)
        factors = replace(reduced.factors, train=-reduced.factors.train[:], validation=-reduced.factors.validation[:])
        return replace(reduced, factors=factors)

    monkeypatch.setattr("train_head.solvers.reduced.reduce_features", reduce_mirrored)
    expected = fit(noisy_two, INTERRUPTED, Checkpoint(tmp_path / "other.npz", "key"), quiet)
    assert_same_fit(fit(noisy_two, INTERRUPTED, Checkpoint(path, "key"), quiet), expected)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("key", "share", "units", "num_warnings"),
    [
        pytest.param("another key", 1.0, 12, 0, id="another-key"),
        pytest.param("key", 0.5, 12, 1, id="truncated"),
        pytest.param("key", 1.0, 13, 1, id="other-shapes"),
    ],
)
def test_fit_reduced_with_an_unusable_checkpoint_starts_again(
    noisy_two: FeatureStore,
    tmp_path: Path,
    quiet: Console,
    capsys: pytest.CaptureFixture[str],
    key: str,
    share: float,
    units: int,
    num_warnings: int,
) -> None:
    path = tmp_path / "fit.npz"
    with pytest.raises(KeyboardInterrupt):
        fit(noisy_two, INTERRUPTED, Checkpoint(path, key), InterruptingConsole(4))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    config = replace(INTERRUPTED, units=units)
    fitted = fit(noisy_two, config, Checkpoint(path, "key"), quiet)
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == num_warnings
    assert all(line.startswith(f"warning: {path}: ") for line in warnings)
    assert_same_fit(fitted, fit(noisy_two, config, Checkpoint(tmp_path / "other.npz", "key"), quiet))


@pytest.mark.usefixtures("eager")
def test_fit_reduced_after_all_epochs_trains_no_further(
    noisy_two: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    path = tmp_path / "fit.npz"
    first = fit(noisy_two, INTERRUPTED, Checkpoint(path, "key", keep_final=True), quiet)
    again = fit(noisy_two, INTERRUPTED, Checkpoint(path, "key", keep_final=True), quiet)
    assert_same_fit(again, first)
    # The seconds are equal too: no epoch was repeated.
    assert again.history == first.history


@pytest.mark.usefixtures("eager")
def test_fit_reduced_on_a_full_disk_continues_without_checkpoints(
    noisy_two: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    expected = fit(noisy_two, INTERRUPTED, Checkpoint(tmp_path / "other/fit.npz", "key"), quiet)
    with limit_file_size(1000):
        fitted = fit(noisy_two, INTERRUPTED, Checkpoint(tmp_path / "full/fit.npz", "key"), quiet)
    assert_same_fit(fitted, expected)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["fit.npz"]
    assert list((tmp_path / "full").iterdir()) == []


OVERFITTING = replace(SGD_CONFIG, epochs=60, optimizer=OptimizerName.ADAM, learning_rate=0.01, dropout=0.2)


def test_fit_reduced_with_patience_stops_and_keeps_the_best_epoch(
    noisy_two: FeatureStore, checkpoint: Checkpoint, quiet: Console
) -> None:
    fitted = fit(noisy_two, replace(OVERFITTING, patience=4), checkpoint, quiet)
    losses = [row.val_loss for row in fitted.history]
    assert fitted.kept_epoch == 1 + int(np.argmin(losses))
    assert 1 < fitted.kept_epoch < 50
    assert len(fitted.history) == fitted.kept_epoch + 4
    assert all(row.epoch == place for place, row in enumerate(fitted.history, 1))
    exact = fit(noisy_two, replace(OVERFITTING, epochs=fitted.kept_epoch), checkpoint, quiet)
    assert exact.kept_epoch == fitted.kept_epoch
    assert_same_weights(fitted.weights, exact.weights)
    np.testing.assert_array_equal(fitted.validation_probabilities, exact.validation_probabilities)
    assert list_values(exact) == list_values(fitted)[: fitted.kept_epoch]


def test_fit_reduced_with_more_patience_than_epochs_keeps_the_best_epoch(
    noisy_two: FeatureStore, checkpoint: Checkpoint, quiet: Console
) -> None:
    config = replace(OVERFITTING, epochs=20, patience=20)
    fitted = fit(noisy_two, config, checkpoint, quiet)
    assert len(fitted.history) == 20
    assert fitted.kept_epoch == 1 + int(np.argmin([row.val_loss for row in fitted.history])) < 20
    last = fit(noisy_two, replace(config, patience=0), checkpoint, quiet)
    assert (last.kept_epoch, list_values(last)) == (20, list_values(fitted))
    assert not np.array_equal(last.weights.input_kernel, fitted.weights.input_kernel)


@pytest.mark.parametrize("patience", [0, 3])
def test_fit_reduced_that_diverges_in_the_first_epoch_raises(
    noisy_two: FeatureStore, checkpoint: Checkpoint, quiet: Console, patience: int
) -> None:
    config = replace(SGD_CONFIG, learning_rate=1e30, patience=patience)
    with raises(DivergedError, where="epoch 1", exit_status=1) as caught:
        fit(noisy_two, config, checkpoint, quiet)
    assert caught.value.row.epoch == 1
    assert not caught.value.row.is_finite
    assert "1e+30" in caught.value.got


def test_fit_reduced_that_diverges_later_keeps_a_finite_epoch(
    noisy_two: FeatureStore, checkpoint: Checkpoint, quiet: Console
) -> None:
    # Each step multiplies the kernels by about 1 - 2 * 0.3 * 5 = -2, so their squares overflow in the end.
    config = replace(SGD_CONFIG, epochs=40, learning_rate=0.3, l2=5.0)
    fitted = fit(noisy_two, config, checkpoint, quiet)
    num_epochs = len(fitted.history)
    assert 2 < num_epochs < 40
    assert [row.is_finite for row in fitted.history] == [True] * (num_epochs - 1) + [False]
    assert fitted.kept_epoch == num_epochs - 1
    shorter = fit(noisy_two, replace(config, epochs=num_epochs - 1), checkpoint, quiet)
    assert_same_weights(fitted.weights, shorter.weights)
    assert all(np.isfinite(getattr(fitted.weights, name)).all() for name in FIELDS)
    best = fit(noisy_two, replace(config, patience=100), checkpoint, quiet)
    assert len(best.history) == num_epochs
    assert best.kept_epoch == 1 + int(np.argmin([row.val_loss for row in best.history[:-1]]))


@pytest.mark.usefixtures("eager")
def test_fit_reduced_after_divergence_trains_no_further(
    noisy_two: FeatureStore, tmp_path: Path, quiet: Console
) -> None:
    config = replace(SGD_CONFIG, epochs=40, learning_rate=0.3, l2=5.0)
    first, again = (
        fit(noisy_two, config, Checkpoint(tmp_path / "fit.npz", "key", keep_final=True), quiet) for _ in range(2)
    )
    assert again.kept_epoch == first.kept_epoch
    assert again.history[:-1] == first.history[:-1]
    assert [row.is_finite for row in again.history[-2:]] == [True, False]
    assert_same_weights(again.weights, first.weights)


def test_fit_reduced_applies_class_weights_only_to_the_training_loss(
    noisy_two: FeatureStore, checkpoint: Checkpoint, quiet: Console
) -> None:
    # At this low learning rate, the losses of the epoch are those of the initial head.
    config = replace(SGD_CONFIG, epochs=1, learning_rate=1e-30)
    plain = fit(noisy_two, config, checkpoint, quiet)
    balanced = fit(noisy_two, replace(config, class_weight=ClassWeight.BALANCED), checkpoint, quiet)
    targets = read_datasets(noisy_two, ClassWeight.NONE)[0].targets
    losses = -np.log(plain.train_probabilities[np.arange(23), targets])
    weights = np.where(targets == 0, 23 / (2 * 15), 23 / (2 * 8))
    assert plain.history[0].loss == pytest.approx(losses.mean(), rel=1e-5)
    assert balanced.history[0].loss == pytest.approx((losses * weights).mean(), rel=1e-5)
    assert balanced.history[0].loss != pytest.approx(losses.mean(), rel=1e-3)
    assert balanced.history[0].val_loss == plain.history[0].val_loss


def test_fit_reduced_with_l2_shrinks_the_kernel_and_adds_the_penalty(
    noisy_two: FeatureStore, checkpoint: Checkpoint, quiet: Console
) -> None:
    norms = []
    for l2 in (0.0, 0.01, 0.1):
        fitted = fit(noisy_two, replace(SGD_CONFIG, epochs=20, l2=l2), checkpoint, quiet)
        kernels = (fitted.weights.input_kernel, fitted.weights.output_kernel)
        squares = sum(float((kernel.astype(np.float64) ** 2).sum()) for kernel in kernels)
        norms.append(float(np.linalg.norm(kernels[0])))
        targets = read_datasets(noisy_two, ClassWeight.NONE)[1].targets
        losses = -np.log(fitted.validation_probabilities[np.arange(len(targets)), targets])
        assert fitted.history[-1].val_loss == pytest.approx(losses.mean() + l2 * squares, rel=1e-5)
    assert norms[1] < 0.99 * norms[0]
    assert norms[2] < 0.8 * norms[1]


def test_draw_head_has_the_variances_of_glorot_uniform() -> None:
    head = draw_head(37_632, 512, 1024, 3, seed=1)
    limits = [np.sqrt(6 / (37_632 + 1024)), np.sqrt(6 / (1024 + 3))]
    for kernel, limit in zip((head.input_kernel, head.output_kernel), limits, strict=True):
        assert kernel.dtype == np.float32
        assert 0.99 * limit < np.abs(kernel).max() <= limit * (1 + 1e-6)
        assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.03)
        assert abs(kernel.mean()) < 0.05 * limit
    assert head.input_bias.tolist() == [0] * 1024
    assert head.output_bias.tolist() == [0] * 3
    assert_same_weights(draw_head(37_632, 512, 1024, 3, seed=1), head)
    assert not np.array_equal(draw_head(37_632, 512, 1024, 3, seed=2).input_kernel, head.input_kernel)


@pytest.mark.parametrize("num_rows", [1, 4, 5, 9])
def test_hash_rows_equals_the_hash_of_all_bytes(monkeypatch: pytest.MonkeyPatch, num_rows: int) -> None:
    monkeypatch.setattr("train_head.solvers.reduced.HASHED_ROWS", 4)
    features = np.random.default_rng(1).normal(size=(num_rows, 6)).astype(np.float32)
    assert _hash_rows(features) == hashlib.sha256(features.tobytes()).digest()
    assert _hash_rows(features[:, ::2]) == hashlib.sha256(features[:, ::2].tobytes()).digest()


def test_fit_reduced_limits_blas_to_one_thread(noisy_two: FeatureStore, checkpoint: Checkpoint, quiet: Console) -> None:
    num_threads: set[int] = set()

    def look(_: Epoch) -> None:
        num_threads.update(found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas")

    fit(noisy_two, replace(SGD_CONFIG, epochs=1), checkpoint, quiet, look)
    assert num_threads == {1}
