"""Keras's optimizers in NumPy: the same formulas and defaults, in place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from train_head.config import HeadConfig, OptimizerName
from train_head.data.batches import Array

EPSILON = 1e-7


class Optimizer:
    """How a gradient becomes a change of a variable."""

    num_slots = 1
    """Arrays of a variable's shape that the optimizer keeps, all zeros at first."""

    def __init__(self, learning_rate: float) -> None:
        """Take the learning rate."""
        self._rate = learning_rate

    def begin_step(self, number: int) -> None:
        """Prepare a step, counted from 0, before the variables are updated."""

    def update(self, variable: Array, gradient: Array, slots: Sequence[Array]) -> None:
        """Change a variable, or a part of it, and its slots in place; the gradient is overwritten."""
        raise NotImplementedError


class RMSprop(Optimizer):
    """Division by the root of a running mean of squares.

    Source: Tieleman and Hinton 2012, Coursera lecture 6.5; `keras.optimizers.RMSprop`.
    """

    _RHO = 0.9

    def update(self, variable: Array, gradient: Array, slots: Sequence[Array]) -> None:
        """Update in place."""
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
    """Moments of first and second order, corrected for their start at zero.

    Source: Kingma and Ba 2015, algorithm 1 in the form of its section 2's last remark; `keras.optimizers.Adam`.
    """

    num_slots = 2
    _BETA_1, _BETA_2 = 0.9, 0.999

    def begin_step(self, number: int) -> None:
        """Correct the rate for the moments' start."""
        power = number + 1
        self._alpha = self._rate * (1 - self._BETA_2**power) ** 0.5 / (1 - self._BETA_1**power)

    def update(self, variable: Array, gradient: Array, slots: Sequence[Array]) -> None:
        """Update in place."""
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
    """Steps down the gradient, with momentum where it is asked for.

    Source: Polyak 1964; `keras.optimizers.SGD`.
    """

    def __init__(self, learning_rate: float, momentum: float = 0.0) -> None:
        """Take the learning rate and the share of the last change that is kept."""
        super().__init__(learning_rate)
        self._momentum = momentum
        self.num_slots = 1 if momentum else 0

    def update(self, variable: Array, gradient: Array, slots: Sequence[Array]) -> None:
        """Update in place."""
        gradient *= self._rate
        if slots:
            (change,) = slots
            change *= self._momentum
            change -= gradient
            variable += change
        else:
            variable -= gradient


def make_optimizer(config: HeadConfig) -> Optimizer:
    """Make the optimizer of a config."""
    match config.optimizer:
        case OptimizerName.RMSPROP:
            return RMSprop(config.learning_rate)
        case OptimizerName.ADAM:
            return Adam(config.learning_rate)
        case OptimizerName.SGD:
            return SGD(config.learning_rate, config.momentum)
