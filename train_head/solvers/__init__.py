"""Solvers: how a head is fitted."""

from __future__ import annotations

from dataclasses import dataclass

from train_head.head import Array, HeadWeights


@dataclass(frozen=True)
class Epoch:
    """One row of the history; losses in nats, accuracies as shares, training values with dropout on."""

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float


@dataclass(frozen=True)
class Fit:
    """What a solver returns."""

    weights: HeadWeights
    history: list[Epoch]
    validation_probabilities: Array
    """(validation examples, classes) float32."""
