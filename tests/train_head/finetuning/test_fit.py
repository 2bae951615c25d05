"""Fine-tuned fits: gradients, weights, normalisation, history and patience."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from base.terminal import Console
from extract.backbone import name_layers
from features.options import Pool
from features.store import FeatureStore
from tests.backbones import build_small_backbone
from tests.train_head.finetuning.conftest import configure
from tests.train_head.finetuning.layers import SMALL_BLOCK, list_changed
from train_head.data.split import split_examples
from train_head.finetuning import fit as tuning_fit
from train_head.finetuning.tail import Tail, open_tail
from train_head.solvers import Fit, Problem, ignore_epoch
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.head import TunedWeights
from train_head.solvers.history import Epoch
from train_head.solvers.reduced import fit_reduced

if TYPE_CHECKING:
    import keras


def fit(tail: Tail, quiet: Console, on_epoch_end: Callable[[Epoch], None] = ignore_epoch, **options: Any) -> Any:
    """Fit a head with the reduced solver, then fine-tune."""
    split = split_examples(tail.store.examples, 0.2)
    config = configure(tail.store.path, Path("run"), **options)
    solve = tuning_fit.add_fine_tuning(fit_reduced, tail)
    return solve(Problem(tail.store, split, config, on_epoch_end), Checkpoint(None), quiet)


@dataclass(frozen=True)
class FineTuned:
    """A finished fit, with the model that was fine-tuned and the epochs that were reported."""

    tail: Tail
    fit: Fit
    model: keras.Model
    epochs: list[Epoch]


@pytest.fixture(scope="module")
def fine_tuned(stores: Path, quiet: Console) -> FineTuned:
    """Fine-tuned fit on a backbone that no other test uses; not to be changed."""
    models: list[keras.Model] = []
    epochs: list[Epoch] = []
    from train_head.solvers.full import fit_model

    def record(problem: Problem, fittable: Any, *rest: Any) -> Fit:
        models.append(fittable.model)
        return fit_model(problem, fittable, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train_head.finetuning.backbone.build_backbone", build_small_backbone)
        patch.setattr(tuning_fit, "fit_model", record)
        tail = open_tail(FeatureStore(stores / "mixed6"), "mixed6", Pool.NONE, "", quiet)
        found = fit(tail, quiet, epochs.append)
    (model,) = models
    return FineTuned(tail, found, model, epochs)


def test_gradients_reach_exactly_the_fine_tuned_layers_and_the_head(fine_tuned: FineTuned) -> None:
    import tensorflow as tf

    tail, model = fine_tuned.tail, fine_tuned.model
    layer_of = {
        id(layer.kernel): name for layer, name in name_layers(tail.backbone).items() if hasattr(layer, "kernel")
    }
    found = {layer_of.get(id(variable), variable.path) for variable in model.trainable_variables}
    head = {path for path in found if path not in SMALL_BLOCK}
    assert found - head == SMALL_BLOCK
    assert sorted(path.partition("/")[2] if "/" in path else path for path in head) == [
        "hidden/bias",
        "hidden/kernel",
        "probability/bias",
        "probability/kernel",
    ]
    features = tail.store.read(tail.store.examples[:8]).astype(np.float32)
    with tf.GradientTape() as tape:
        tape.watch([variable.value for variable in model.variables if variable.dtype == "float32"])
        total = tf.reduce_sum(model(features, training=True))
    gradients = tape.gradient(total, [variable.value for variable in model.trainable_variables])
    assert all(gradient is not None and np.abs(gradient).max() > 0 for gradient in gradients)


def test_fine_tuning_changes_only_its_layers_and_restores_them(fine_tuned: FineTuned, loaded: keras.Model) -> None:
    tail, weights = fine_tuned.tail, fine_tuned.fit.weights
    assert isinstance(weights, TunedWeights)
    assert weights.tail.keys() == SMALL_BLOCK
    initial = tail.get_kernels()
    # The backbone is restored for the next fit.
    assert list_changed(tail.build_feature_extractor(), loaded) == set()
    tail.set_kernels(weights.tail)
    assert list_changed(tail.build_feature_extractor(), loaded) == SMALL_BLOCK
    tail.set_kernels(initial)


def test_fine_tuning_keeps_normalisation_in_inference_mode(fine_tuned: FineTuned) -> None:
    tail = fine_tuned.tail
    features = tail.store.read(tail.store.examples[:8]).astype(np.float32)
    model = tail.cut_from("mixed6")
    np.testing.assert_array_equal(model(features, training=True), model(features, training=False))


def test_fine_tuning_continues_from_the_head_in_one_history(fine_tuned: FineTuned) -> None:
    found = fine_tuned.fit
    assert [row.epoch for row in found.history] == list(range(1, 8))
    assert fine_tuned.epochs == found.history
    assert found.kept_epoch == 7
    assert found.before_tuning == found.history[3]
    # Fine-tuning takes small steps from a fitted head, so the losses of the two stages are close.
    assert abs(found.history[4].val_loss - found.history[3].val_loss) < 0.2


def test_fine_tuning_with_negligible_steps_keeps_the_loss_of_the_head(tail: Tail, quiet: Console) -> None:
    found = fit(tail, quiet, fine_tune_learning_rate=1e-12, fine_tune_epochs=1)
    before, after = found.history[3], found.history[4]
    assert after.val_loss == pytest.approx(before.val_loss, abs=2e-3)
    assert after.val_accuracy == before.val_accuracy


@pytest.mark.parametrize(("rate", "is_better"), [(0.3, False), (1e-3, True)])
def test_fine_tuning_with_patience_keeps_best_of_all_epochs(
    tail: Tail, quiet: Console, rate: float, is_better: bool
) -> None:
    # The head is nearly optimal, so that large steps make it worse.
    head: dict[str, Any] = {"epochs": 40, "learning_rate": 0.03}
    found = fit(tail, quiet, **head, patience=2, fine_tune_epochs=4, fine_tune_learning_rate=rate)
    best = min(found.history, key=lambda row: row.val_loss)
    assert found.kept_epoch == best.epoch
    assert found.before_tuning is not None
    assert (best.val_loss < found.before_tuning.val_loss) == is_better
    unchanged = all(np.array_equal(found.weights.tail[name], kernel) for name, kernel in tail.get_kernels().items())
    assert unchanged == (not is_better)
    split = split_examples(tail.store.examples, 0.2)
    targets = [split.classes.index(example.label) for example in split.validation]
    losses = -np.log(found.validation_probabilities[np.arange(len(targets)), targets])
    assert losses.mean() == pytest.approx(best.val_loss, rel=1e-3)
