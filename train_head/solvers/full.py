"""The full solver: Keras `fit` on every input of the head."""

from __future__ import annotations

import math
import time
from typing import Any

import keras
import numpy as np

from features.console import Console
from features.errors import HeadstartError
from features.store import FeatureStore
from train_head.batches import FeatureBatches
from train_head.config import OptimizerName, TrainConfig
from train_head.head import build_head, expand_probabilities, extract_weights
from train_head.solvers import Epoch, Fit
from train_head.split import Split

VALIDATION_BATCH_SIZE = 100
MAX_STEPS_PER_EXECUTION = 10


class _KerasBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Lets Keras read the batches of all epochs as one sequence, in one thread."""

    def __init__(self, batches: FeatureBatches, num_epochs: int = 1) -> None:
        super().__init__(workers=1)
        self._batches, self._num_epochs = batches, num_epochs

    def __len__(self) -> int:
        return self._batches.num_batches * self._num_epochs

    def __getitem__(self, index: int) -> Any:
        return self._batches.read_batch(index)


class _Follow(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the history, and tells the console."""

    def __init__(self, progress: Any) -> None:
        super().__init__()
        self._progress = progress
        self.history: list[Epoch] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        values = {name: float(logs[name]) for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
        self.history.append(Epoch(epoch + 1, **values, seconds=time.monotonic() - self._started))
        self._progress.advance(1)
        if not (math.isfinite(values["loss"]) and math.isfinite(values["val_loss"])):
            self.model.stop_training = True


def fit_full(store: FeatureStore, split: Split, config: TrainConfig, console: Console) -> Fit:
    """Fits a head with Keras.

    Args:
        store: where the features are.
        split: what to train on and what to validate with.
        config: the head and how to fit it.
        console: where progress goes.

    Returns:
        The head after the last epoch; the same for the same seed.

    Raises:
        HeadstartError: the loss became NaN or infinite.
    """
    keras.utils.set_random_seed(config.seed)
    train = FeatureBatches(store, split.train, split.classes, batch_size=config.batch_size, seed=config.seed)
    validation = FeatureBatches(store, split.validation, split.classes, batch_size=VALIDATION_BATCH_SIZE, seed=None)
    where = "in memory" if train.in_memory else "read from the shards in every epoch"
    console.detail(f"features are {where}")
    head = build_head(store.feature_shape, len(split.classes), config.units, config.dropout, config.seed)
    binary = len(split.classes) == 2
    head.compile(
        optimizer=_build_optimizer(config),
        loss="binary_crossentropy" if binary else "sparse_categorical_crossentropy",
        metrics=["accuracy" if binary else keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        steps_per_execution=_find_divisor(train.num_batches),
        jit_compile=False,
    )
    with console.progress("train", config.epochs, "epochs") as progress:
        follow = _Follow(progress)
        head.fit(
            _KerasBatches(train, config.epochs),
            steps_per_epoch=train.num_batches,
            validation_data=_KerasBatches(validation),
            epochs=config.epochs,
            shuffle=False,
            verbose=0,
            callbacks=[follow],
        )
    last = follow.history[-1]
    if not (math.isfinite(last.loss) and math.isfinite(last.val_loss)):
        raise HeadstartError(
            f"epoch {last.epoch}",
            "a finite loss",
            f"{last.loss} (validation: {last.val_loss}) at learning rate {config.learning_rate:g}",
            "Try a smaller --learning-rate",
        )
    batches = (validation.read_batch(number)[0] for number in range(validation.num_batches))
    outputs = np.concatenate([head.predict_on_batch(features) for features in batches])
    return Fit(extract_weights(head), follow.history, expand_probabilities(outputs))


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
            return keras.optimizers.SGD(config.learning_rate)
