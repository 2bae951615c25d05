"""The full solver: Keras fit, the same as a loop written by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from base.errors import HeadstartError
from base.terminal import Console, ConsoleOptions
from features.store import FeatureStore
from tests.train_head.fits import assert_as_by_hand, assert_same_weights, fit, list_values
from tests.train_head.synthetic import CLASSES, SHAPE
from train_head.config import OptimizerName, TrainConfig
from train_head.data.split import split_examples
from train_head.evaluation.metrics import predict_classes
from train_head.solvers.head import build_head, restore_head

BASE = TrainConfig(Path("store"), Path("run"), epochs=3, batch_size=2, units=6, dropout=0.0, learning_rate=0.01, seed=7)


@pytest.mark.parametrize("optimizer", list(OptimizerName))
def test_fit_full_without_dropout_equals_a_loop_written_by_hand(
    two_classes: FeatureStore, quiet: Console, optimizer: OptimizerName
) -> None:
    assert_as_by_hand(two_classes, replace(BASE, optimizer=optimizer), quiet)


def test_fit_full_of_three_classes_equals_a_loop_written_by_hand(three_classes: FeatureStore, quiet: Console) -> None:
    assert_as_by_hand(three_classes, replace(BASE, batch_size=4), quiet)


def test_fit_full_twice_with_a_seed_gives_the_same_bits_and_another_seed_or_dropout_others(
    two_classes: FeatureStore, quiet: Console
) -> None:
    config = replace(BASE, dropout=0.4, batch_size=5, units=64)
    first, again = fit(two_classes, config, quiet), fit(two_classes, config, quiet)
    assert list_values(first) == list_values(again)
    assert_same_weights(first.weights, again.weights)
    np.testing.assert_array_equal(first.validation_probabilities, again.validation_probabilities)
    for other in (replace(config, seed=8), replace(config, dropout=0.0)):
        differing = fit(two_classes, other, quiet)
        assert list_values(differing) != list_values(first)
        assert not np.array_equal(differing.weights.hidden_kernel, first.weights.hidden_kernel)


def test_fit_full_of_three_separable_classes_learns_a_softmax(three_classes: FeatureStore, quiet: Console) -> None:
    config = replace(BASE, epochs=12, batch_size=5, units=32, dropout=0.2)
    fitted = fit(three_classes, config, quiet)
    split = split_examples(three_classes.examples, 0.2)
    probabilities = fitted.validation_probabilities
    assert probabilities.shape == (12, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert [CLASSES[number] for number in predict_classes(probabilities)] == [
        example.label for example in split.validation
    ]
    last = fitted.history[-1]
    assert last.val_accuracy == 1.0
    assert last.accuracy > 0.9
    assert last.val_loss < 0.2 * fitted.history[0].val_loss


def test_fit_full_returns_the_head_and_what_it_says_after_the_last_epoch(
    two_classes: FeatureStore, quiet: Console
) -> None:
    fitted = fit(two_classes, replace(BASE, dropout=0.3), quiet)
    validation = split_examples(two_classes.examples, 0.2).validation
    head = restore_head(fitted.weights, SHAPE, 2, 0.3)
    outputs = head.predict_on_batch(two_classes.read(validation).astype(np.float32))[:, 0]
    targets = np.array([example.label == "dogs" for example in validation])
    np.testing.assert_allclose(fitted.validation_probabilities[:, 1], outputs, atol=1e-6)
    np.testing.assert_allclose(fitted.validation_probabilities[:, 0], 1 - outputs, atol=1e-6)
    likelihoods = np.where(targets, outputs, 1 - outputs)
    assert fitted.history[-1].val_loss == pytest.approx(-np.log(likelihoods).mean(), rel=1e-4)
    assert fitted.history[-1].val_accuracy == pytest.approx(np.mean((outputs > 0.5) == targets))


def test_fit_full_with_features_beyond_memory_learns_from_the_shards(
    two_classes: FeatureStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(BASE, epochs=8, batch_size=3, units=32, learning_rate=0.02)
    monkeypatch.setattr("train_head.data.batches.HELD_BYTES", 0)
    console = Console(ConsoleOptions(verbose=True))
    assert fit(two_classes, config, console).history[-1].val_accuracy == 1.0
    assert "features are read from the shards in every epoch" in capsys.readouterr().err


@pytest.mark.parametrize("batch_size", [1, 23, 1000])
def test_fit_full_with_any_batch_size_sees_all_examples(
    two_classes: FeatureStore, quiet: Console, batch_size: int
) -> None:
    config = replace(BASE, epochs=1, batch_size=batch_size, learning_rate=1e-12, optimizer=OptimizerName.SGD)
    fitted = fit(two_classes, config, quiet)
    split = split_examples(two_classes.examples, 0.2)
    head = build_head(SHAPE, 2, config.units, 0.0, config.seed)
    outputs = head.predict_on_batch(two_classes.read(split.train).astype(np.float32))[:, 0]
    targets = np.array([example.label == "dogs" for example in split.train])
    expected = -np.log(np.where(targets, outputs, 1 - outputs)).mean()
    assert fitted.history[0].loss == pytest.approx(expected, rel=1e-5)
    assert fitted.history[0].accuracy == pytest.approx(np.mean((outputs > 0.5) == targets))


@pytest.mark.parametrize(
    ("epochs", "batch_size", "got"),
    [
        pytest.param(3, 4, r"nan \(validation: nan\)", id="in training"),
        pytest.param(1, 23, r"\d\.\d+ \(validation: nan\)", id="by the very last step"),
    ],
)
def test_fit_full_that_diverges_names_epoch_and_learning_rate(
    two_classes: FeatureStore, quiet: Console, epochs: int, batch_size: int, got: str
) -> None:
    config = replace(BASE, epochs=epochs, batch_size=batch_size, learning_rate=1e30, optimizer=OptimizerName.SGD)
    with pytest.raises(
        HeadstartError, match=rf"^epoch 1: expected a finite loss, got {got} at learning rate 1e\+30\. Nothing was"
    ):
        fit(two_classes, config, quiet)


def test_fit_full_of_sure_mistakes_gives_probabilities_of_the_loss_that_it_reports(
    noisy: FeatureStore, quiet: Console
) -> None:
    config = replace(BASE, epochs=60, learning_rate=0.3, dropout=0.0, units=32, optimizer=OptimizerName.RMSPROP)
    fitted = fit(noisy, config, quiet)
    split = split_examples(noisy.examples, 0.2)
    targets = np.array([split.classes.index(example.label) for example in split.validation])
    given = fitted.validation_probabilities[np.arange(len(targets)), targets]
    # Float32 knows no number between 1 - 6e-8 and 1.
    assert 0 < given.min() < 1e-8
    assert -np.log(given.astype(np.float64)).mean() == pytest.approx(fitted.history[-1].val_loss, rel=1e-4)
