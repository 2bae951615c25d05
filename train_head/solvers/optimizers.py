"""RMSprop, Adam and SGD in NumPy, with Keras's formulas and defaults; variables are updated in place.

In the formulas w is a variable, g its gradient, η the learning rate, and t the number of the step, from 1. All arrays
are float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from train_head.config import HeadConfig, OptimizerName
from train_head.data.batches import Array

EPSILON = 1e-7
"""Keras's default ε, which keeps divisors above zero."""


class Optimizer:
    """Base class of the optimizers, which update variables with their gradients."""

    num_slots = 1
    """Number of state arrays (slots) per variable; each has the variable's shape and starts at zero."""

    def __init__(self, learning_rate: float) -> None:
        """Create an optimizer with a learning rate above 0."""
        self._rate = learning_rate

    def begin_step(self, number: int) -> None:
        """Prepare step `number`, counted from 0, before the variables are updated."""

    def update(self, variable: Array, gradient: Array, slots: Sequence[Array]) -> None:
        """Update a variable and its slots in place.

        Args:
            variable: the variable, or some of its rows.
            gradient: its gradient, of the same shape; overwritten.
            slots: `num_slots` arrays of the same shape.
        """
        raise NotImplementedError


class RMSprop(Optimizer):
    """RMSprop: v ← ρ v + (1 - ρ) g², w ← w - η g / √(v + ε), with ρ = 0.9.

    Source: Tieleman and Hinton 2012, Coursera lecture 6.5; `keras.optimizers.RMSprop`.
    """

    _RHO = 0.9

    def update(self, variable: Array, gradient: Array, slots: Sequence[Array]) -> None:
        """Update a variable in place."""
        (velocity,) = slots
        scratch = np.square(gradient)
        scratch *= 1 - self._RHO
        velocity *= self._RHO
        velocity += scratch
        np.add(velocity, EPSILON, out=scratch)
        np.sqrt(scratch, out=scratch)
        gradient *= self._rate
        gradient /= scratch
        variable -= gradient


class Adam(Optimizer):
    """Adam: m ← m + (1 - β₁)(g - m), v ← v + (1 - β₂)(g² - v), w ← w - α m / (√v + ε).

    α = η √(1 - β₂ᵗ) / (1 - β₁ᵗ) corrects the bias of the moments, which start at zero; β₁ = 0.9, β₂ = 0.999.

    Source: Kingma and Ba 2015, algorithm 1 with the reordering at the end of section 2; `keras.optimizers.Adam`.
    """

    num_slots = 2
    _BETA_1, _BETA_2 = 0.9, 0.999

    def begin_step(self, number: int) -> None:
        """Compute α for the step."""
        power = number + 1
        self._alpha = self._rate * (1 - self._BETA_2**power) ** 0.5 / (1 - self._BETA_1**power)

    def update(self, variable: Array, gradient: Array, slots: Sequence[Array]) -> None:
        """Update a variable in place."""
        momentum, velocity = slots
        scratch = gradient - momentum
        scratch *= 1 - self._BETA_1
        momentum += scratch
        np.square(gradient, out=scratch)
        scratch -= velocity
        scratch *= 1 - self._BETA_2
        velocity += scratch
        np.sqrt(velocity, out=scratch)
        scratch += EPSILON
        np.multiply(momentum, self._alpha, out=gradient)
        gradient /= scratch
        variable -= gradient


class SGD(Optimizer):
    """Gradient descent: w ← w - η g; with momentum μ: u ← μ u - η g, w ← w + u.

    Source: Polyak 1964 for the momentum; `keras.optimizers.SGD`.
    """

    def __init__(self, learning_rate: float, momentum: float = 0.0) -> None:
        """Create an optimizer with a learning rate above 0 and a momentum in [0, 1)."""
        super().__init__(learning_rate)
        self._momentum = momentum
        self.num_slots = 1 if momentum else 0

    def update(self, variable: Array, gradient: Array, slots: Sequence[Array]) -> None:
        """Update a variable in place."""
        gradient *= self._rate
        if slots:
            (change,) = slots
            change *= self._momentum
            change -= gradient
            variable += change
        else:
            variable -= gradient


def make_optimizer(config: HeadConfig) -> Optimizer:
    """Return the optimizer that a config selects."""
    match config.optimizer:
        case OptimizerName.RMSPROP:
            return RMSprop(config.learning_rate)
        case OptimizerName.ADAM:
            return Adam(config.learning_rate)
        case OptimizerName.SGD:
            return SGD(config.learning_rate, config.momentum)
