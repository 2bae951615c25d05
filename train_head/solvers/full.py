"""The full solver: Keras `fit` on all inputs of the head."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
from threadpoolctl import threadpool_limits

from base.terminal import Console
from train_head.config import HeadConfig, OptimizerName, TrainConfig
from train_head.data.batches import Array, FeatureBatches
from train_head.solvers import Fit, Problem
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.head import HeadWeights, build_head, extract_weights, plan_outputs
from train_head.solvers.history import Epoch
from train_head.solvers.network import Batch, compute_probabilities

EVALUATION_BATCH_SIZE = 100
MAX_STEPS_PER_EXECUTION = 10
"""Largest number of training steps that Keras runs in one call of its compiled function."""


@dataclass(frozen=True)
class Fittable:
    """Keras model to fit, with functions that copy and set its weights."""

    model: keras.Model
    """From (n, *feature shape) to (n, outputs) probabilities, with initial weights."""
    get_weights: Callable[[], HeadWeights]
    set_weights: Callable[[HeadWeights], None]
    hidden_model: keras.Model
    """From the same input to the (n, units) hidden layer; NumPy computes the final logits and probabilities from it."""


class _KerasBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of consecutive epochs as one Keras dataset, read in one thread."""

    def __init__(self, batches: FeatureBatches, epochs: range = range(1)) -> None:
        super().__init__(workers=1)
        self._batches, self._epochs = batches, epochs

    def __len__(self) -> int:
        return self._batches.num_batches * len(self._epochs)

    def __getitem__(self, index: int) -> Any:
        return self._batches.read_batch(self._batches.num_batches * self._epochs.start + index)


def fit_full(problem: Problem, checkpoint: Checkpoint, console: Console) -> Fit:
    """Fit a head with Keras; raise DivergedError if a loss of the first epoch is NaN or infinite."""
    store, split, config = problem.store, problem.split, problem.config
    keras.utils.set_random_seed(config.seed)
    outputs = plan_outputs(len(split.classes), is_multi_label=split.is_multi_label)
    head = build_head(store.feature_shape, outputs, config.units, config.dropout, config.seed, l2=config.l2)
    fittable = Fittable(head, partial(extract_weights, head), partial(set_weights, head), build_hidden_model(head))
    return fit_model(problem, fittable, checkpoint, console)


def fit_model(problem: Problem, fittable: Fittable, checkpoint: Checkpoint, console: Console) -> Fit:
    """Fit a Keras model on a problem's features.

    Args:
        problem: the features, the split and the options.
        fittable: the model, whose inputs have the shape of the store's features.
        checkpoint: holds the state of an interrupted fit, if there is one, and receives the state of this fit.
        console: prints the progress.

    Raises:
        DivergedError: a loss of the first epoch is NaN or infinite.
    """
    store, split, config, model = problem.store, problem.split, problem.config, fittable.model
    train = FeatureBatches(
        store,
        problem.list_training_rows(),
        split.classes,
        batch_size=config.batch_size,
        seed=config.seed,
        class_weight=config.class_weight,
        is_multi_label=split.is_multi_label,
    )
    validation = FeatureBatches(
        store,
        split.validation,
        split.classes,
        batch_size=EVALUATION_BATCH_SIZE,
        seed=None,
        is_multi_label=split.is_multi_label,
    )
    console.debug(f"features are {'held in memory' if train.in_memory else 'read from the shards in every epoch'}")
    _compile(model, config, choose_loss(len(split.classes), is_multi_label=split.is_multi_label), train.num_batches)
    stopping, arrays = checkpoint.load(config.patience, console, [tuple(found.shape) for found in _list_state(model)])
    for variable, value in zip(_list_state(model), arrays, strict=bool(arrays)):
        variable.assign(value)
    for row in stopping.history:
        problem.on_epoch_end(row)
    first = len(stopping.history)
    if first < config.epochs and not stopping.is_over:
        with console.progress("train", config.epochs, "epochs") as progress:
            progress.advance(first)
            started = time.monotonic()

            def begin_epoch(epoch: int, logs: Any = None) -> None:
                nonlocal started
                started = time.monotonic()

            def end_epoch(epoch: int, logs: Any = None) -> None:
                values = {name: float(logs[name]) for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
                row = Epoch(epoch + 1, **values, seconds=time.monotonic() - started)
                stopping.record(row, fittable.get_weights)
                progress.advance(1)
                checkpoint.save_if_due(lambda: (found.numpy() for found in _list_state(model)), stopping, config.epochs)
                model.stop_training = stopping.is_over
                problem.on_epoch_end(row)

            model.fit(
                _KerasBatches(train, range(first, config.epochs)),
                steps_per_epoch=train.num_batches,
                validation_data=_KerasBatches(validation),
                initial_epoch=first,
                epochs=config.epochs,
                shuffle=False,
                verbose=0,
                callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=begin_epoch, on_epoch_end=end_epoch)],
            )
    weights = stopping.require_kept(config.learning_rate)
    fittable.set_weights(weights)
    train_probabilities, validation_probabilities = (
        compute_probabilities(
            _compute_logits(fittable.hidden_model, weights, batches), is_multi_label=split.is_multi_label
        )
        for batches in (train, validation)
    )
    return Fit(weights, stopping.history, stopping.kept_epoch, train_probabilities, validation_probabilities)


def build_hidden_model(head: keras.Sequential) -> keras.Model:
    """Return a head without its output layer; both share their weights."""
    return keras.Model(head.inputs, head.layers[-2].output, name="hidden")


def set_weights(head: keras.Sequential, weights: HeadWeights) -> None:
    """Set the weights of a head."""
    head.set_weights(weights.list_weights())


class Loss(NamedTuple):
    """Loss of a head in Keras, and the metric named `accuracy`."""

    loss: str | Callable[[Any, Any], Any]
    metric: str | keras.metrics.Metric


def choose_loss(num_classes: int, *, is_multi_label: bool = False) -> Loss:
    """Return the cross-entropy of a head with the outputs of `plan_outputs`, and its accuracy."""
    if is_multi_label:
        # The losses of all labels, so that each can have a weight; Keras takes their mean.
        return Loss(keras.ops.binary_crossentropy, keras.metrics.MeanMetricWrapper(_match_labels, name="accuracy"))
    if num_classes == 2:
        return Loss("binary_crossentropy", "accuracy")
    return Loss("sparse_categorical_crossentropy", keras.metrics.SparseCategoricalAccuracy(name="accuracy"))


def _match_labels(targets: Any, outputs: Any) -> Any:
    """Return 1 for each row whose labels are all predicted correctly, else 0."""
    is_right = keras.ops.equal(targets > 0.5, outputs >= 0.5)
    return keras.ops.cast(keras.ops.all(is_right, axis=-1), "float32")


def _make_optimizer(config: HeadConfig) -> keras.optimizers.Optimizer:
    kinds = {
        OptimizerName.RMSPROP: keras.optimizers.RMSprop,
        OptimizerName.ADAM: keras.optimizers.Adam,
        OptimizerName.SGD: keras.optimizers.SGD,
    }
    momentum = {"momentum": config.momentum} if config.momentum else {}
    return kinds[config.optimizer](config.learning_rate, **momentum)


def _compile(model: keras.Model, config: TrainConfig, loss: Loss, num_batches: int) -> None:
    """Compile a model with the configured optimizer, cross-entropy and accuracy, and create the optimizer's slots."""
    model.compile(
        optimizer=_make_optimizer(config),
        loss=loss.loss,
        metrics=[loss.metric],
        # An execution must not extend into the next epoch.
        steps_per_execution=max(n for n in range(1, MAX_STEPS_PER_EXECUTION + 1) if num_batches % n == 0),
        jit_compile=False,
    )
    model.optimizer.build(model.trainable_variables)


def _list_state(model: keras.Model) -> list[Any]:
    """List all variables that the next step depends on: weights, dropout seeds, and the optimizer's slots."""
    return [*model.variables, *model.optimizer.variables]


def _compute_logits(hidden_model: keras.Model, weights: HeadWeights, batches: FeatureBatches) -> Array:
    """Compute the (pictures, outputs) logits of the first view of each picture, in the order of the examples."""
    outputs = [hidden_model.predict_on_batch(features) for features in batches.iterate_in_order(EVALUATION_BATCH_SIZE)]
    with threadpool_limits(1, user_api="blas"):
        return np.asarray(np.concatenate(outputs) @ weights.output_kernel + weights.output_bias, np.float32)


class KerasTrainer:
    """Trainer of a Keras head, with the methods of `HeadTrainer`. It ignores dropout masks: Keras draws its own."""

    def __init__(self, num_inputs: int, num_classes: int, config: HeadConfig, seed: int) -> None:
        """Build and compile the head."""
        self._model = build_head((num_inputs,), num_classes, config.units, config.dropout, seed, l2=config.l2)
        kind = "binary" if num_classes == 2 else "sparse_categorical"
        optimizer = _make_optimizer(config)
        self._model.compile(optimizer, f"{kind}_crossentropy", metrics=[f"{kind}_accuracy"], jit_compile=False)

    def copy_head(self) -> HeadWeights:
        """Return a copy of the weights."""
        return extract_weights(self._model)

    def train_on_batch(self, batch: Batch) -> tuple[float, int]:
        """Take one training step; return the batch's loss before it, and the number of rows predicted correctly."""
        self._model.reset_metrics()
        features, targets = batch.features.astype(np.float32), batch.targets[:, None].astype(np.float32)
        loss, accuracy = self._model.train_on_batch(features, targets, sample_weight=batch.weights)
        return float(loss), round(float(accuracy) * len(targets))
