"""Solvers: how a head is fitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from base.terminal import Console
from features.store import Example, FeatureStore
from train_head.config import TrainConfig
from train_head.data.batches import Array
from train_head.data.split import Split, list_rows
from train_head.reduction.record import Reduction
from train_head.solvers.checkpoint import Checkpoint
from train_head.solvers.head import HeadWeights
from train_head.solvers.history import Epoch


def ignore_epoch(_: Epoch) -> None:
    """Follows no fit."""


@dataclass(frozen=True)
class Problem:
    """What is to be fitted: which head, on which examples of which store."""

    store: FeatureStore
    split: Split
    config: TrainConfig
    follow: Callable[[Epoch], None] = ignore_epoch
    """Called after each epoch, and for those before an interruption too."""

    def list_training_rows(self) -> list[Example]:
        """Lists the training examples, then the further views of each that are trained on."""
        return list_rows(self.store, self.split.train, self.config.views)


@dataclass(frozen=True)
class Fit:
    """What a solver returns."""

    weights: HeadWeights
    """Of the kept epoch; of the reduced inputs where there is a reduction."""
    history: list[Epoch]
    kept_epoch: int
    train_probabilities: Array
    """(training examples, classes) of the kept head, nothing dropped."""
    validation_probabilities: Array
    """(validation examples, classes)."""
    reduction: Reduction | None = None
    before_tuning: Epoch | None = None
    """The kept epoch of the head alone, where layers of the backbone were trained after it."""


Solve = Callable[[Problem, Checkpoint, Console], Fit]
