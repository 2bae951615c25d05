"""The full solver: Keras `fit` on every input of the head."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from base.terminal import Console, ProgressBar
from train_head.config import OptimizerName, TrainConfig
from train_head.data.batches import Array, FeatureBatches
from train_head.solvers import Fit, Problem
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.head import HeadWeights, build_head, extract_weights
from train_head.solvers.history import Epoch, Watch
from train_head.solvers.network import compute_probabilities

EVALUATION_BATCH_SIZE = 100
MAX_STEPS_PER_EXECUTION = 10


@dataclass(frozen=True)
class Fittable:
    """A Keras model, and the way from it to what is kept, and back."""

    model: keras.Model
    take_weights: Callable[[], HeadWeights]
    put_weights: Callable[[HeadWeights], None]
    hidden: keras.Model
    """From the model's inputs to the hidden layer: probabilities are computed from logits, outside of float32."""


class _KerasBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Lets Keras read the batches of some epochs as one sequence, in one thread."""

    def __init__(self, batches: FeatureBatches, epochs: range = range(1)) -> None:
        super().__init__(workers=1)
        self._batches, self._epochs = batches, epochs

    def __len__(self) -> int:
        return self._batches.num_batches * len(self._epochs)

    def __getitem__(self, index: int) -> Any:
        return self._batches.read_batch(self._batches.num_batches * self._epochs.start + index)


class _Follow(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps history, weights and checkpoints, tells the console, and stops where there is no point in going on."""

    def __init__(
        self,
        watch: Watch,
        checkpoint: Checkpoint,
        progress: ProgressBar,
        follow: Callable[[Epoch], None],
        take_weights: Callable[[], HeadWeights],
    ) -> None:
        super().__init__()
        self._watch, self._checkpoint, self._progress, self._follow = watch, checkpoint, progress, follow
        self._take_weights = take_weights

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        values = {name: float(logs[name]) for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
        row = Epoch(epoch + 1, **values, seconds=time.monotonic() - self._started)
        self._watch.record(row, self._take_weights)
        self._progress.advance(1)
        self._checkpoint.offer(self._list_arrays, self._watch, self.params["epochs"])
        self.model.stop_training = self._watch.is_over
        self._follow(row)

    def _list_arrays(self) -> list[NDArray[Any]]:
        return [variable.numpy() for variable in _list_variables(self.model)]


def fit_full(problem: Problem, checkpoint: Checkpoint, console: Console) -> Fit:
    """Fits a head with Keras.

    Args:
        problem: what to fit, on what.
        checkpoint: where an interrupted fit goes on.
        console: where progress goes.

    Returns:
        The head of the kept epoch; the same for the same seed, also after an interruption.

    Raises:
        HeadstartError: the loss was NaN or infinite in the first epoch.
    """
    store, split, config = problem.store, problem.split, problem.config
    keras.utils.set_random_seed(config.seed)
    head = build_head(store.feature_shape, len(split.classes), config.units, config.dropout, config.seed, l2=config.l2)
    fittable = Fittable(head, partial(extract_weights, head), partial(put_weights, head), cut_hidden(head))
    return fit_model(problem, fittable, checkpoint, console)


def fit_model(problem: Problem, fittable: Fittable, checkpoint: Checkpoint, console: Console) -> Fit:
    """Fits a Keras model on a problem's features, whatever it is made of.

    Args:
        problem: what to fit, on what.
        fittable: the model, with its initial weights.
        checkpoint: where an interrupted fit goes on.
        console: where progress goes.

    Raises:
        HeadstartError: the loss was NaN or infinite in the first epoch.
    """
    store, split, config = problem.store, problem.split, problem.config
    model = fittable.model
    train = FeatureBatches(
        store,
        problem.list_training_rows(),
        split.classes,
        batch_size=config.batch_size,
        seed=config.seed,
        class_weight=config.class_weight,
    )
    validation = FeatureBatches(store, split.validation, split.classes, batch_size=EVALUATION_BATCH_SIZE, seed=None)
    where = "in memory" if train.in_memory else "read from the shards in every epoch"
    console.detail(f"features are {where}")
    _compile(model, config, len(split.classes), _find_divisor(train.num_batches))
    watch = Watch(config.patience)
    if state := checkpoint.load(console, [tuple(variable.shape) for variable in _list_variables(model)]):
        watch = state.resume(config.patience)
        for variable, value in zip(_list_variables(model), state.arrays, strict=bool(state.arrays)):
            variable.assign(value)
    for row in watch.history:
        problem.follow(row)
    first = len(watch.history)
    if first < config.epochs and not watch.is_over:
        with console.progress("train", config.epochs, "epochs") as progress:
            progress.advance(first)
            model.fit(
                _KerasBatches(train, range(first, config.epochs)),
                steps_per_epoch=train.num_batches,
                validation_data=_KerasBatches(validation),
                initial_epoch=first,
                epochs=config.epochs,
                shuffle=False,
                verbose=0,
                callbacks=[_Follow(watch, checkpoint, progress, problem.follow, fittable.take_weights)],
            )
    weights = watch.require_kept(config.learning_rate)
    fittable.put_weights(weights)
    train_probabilities, validation_probabilities = (
        compute_probabilities(_compute_logits(fittable.hidden, weights, batches)) for batches in (train, validation)
    )
    return Fit(weights, watch.history, watch.kept_epoch, train_probabilities, validation_probabilities)


def cut_hidden(head: keras.Sequential) -> keras.Model:
    """Return a head without its last layer, sharing its weights."""
    return keras.Model(head.inputs, head.layers[-2].output, name="hidden")


def put_weights(head: keras.Sequential, weights: HeadWeights) -> None:
    """Gives a head fitted weights."""
    head.set_weights([getattr(weights, field.name) for field in fields(HeadWeights)])


def _compile(model: keras.Model, config: TrainConfig, num_classes: int, steps_per_execution: int) -> None:
    binary = num_classes == 2
    model.compile(
        optimizer=_build_optimizer(config),
        loss="binary_crossentropy" if binary else "sparse_categorical_crossentropy",
        metrics=["accuracy" if binary else keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        steps_per_execution=steps_per_execution,
        jit_compile=False,
    )
    model.optimizer.build(model.trainable_variables)


def _list_variables(model: keras.Model) -> list[Any]:
    """Lists everything that the next step depends on: weights, the state of dropout, the optimizer's."""
    return [*model.variables, *model.optimizer.variables]


def _compute_logits(hidden: keras.Model, weights: HeadWeights, batches: FeatureBatches) -> Array:
    outputs = [hidden.predict_on_batch(features) for features in batches.list_in_order(EVALUATION_BATCH_SIZE)]
    with threadpool_limits(1, user_api="blas"):
        return np.asarray(np.concatenate(outputs) @ weights.output_kernel + weights.output_bias, np.float32)


def _find_divisor(num_batches: int) -> int:
    """Finds how many steps to run at a time, so that an epoch is a whole number of times."""
    return max(steps for steps in range(1, MAX_STEPS_PER_EXECUTION + 1) if num_batches % steps == 0)


def _build_optimizer(config: TrainConfig) -> keras.optimizers.Optimizer:
    match config.optimizer:
        case OptimizerName.RMSPROP:
            return keras.optimizers.RMSprop(config.learning_rate)
        case OptimizerName.ADAM:
            return keras.optimizers.Adam(config.learning_rate)
        case OptimizerName.SGD:
            return keras.optimizers.SGD(config.learning_rate, momentum=config.momentum)
