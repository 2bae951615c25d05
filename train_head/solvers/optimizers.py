"""Keras's optimizers in NumPy: the same formulas and defaults, in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from train_head.config import HeadConfig, OptimizerName
from train_head.data.batches import Array

EPSILON = 1e-7


class Optimizer(Protocol):
    """How a gradient becomes a change of a variable."""

    num_slots: int
    """How many arrays of a variable's shape it remembers, all zeros at first."""

    def begin_step(self, number: int) -> None:
        """Is told a step's number, from 0, before the variables are updated."""

    def update(self, variable: Array, gradient: Array, slots: Sequence[Array]) -> None:
        """Changes a variable, or a part of it, and its slots in place; the gradient is used up."""


class RMSprop:
    """Divides by the root of a running mean of squares.

    Source: Tieleman and Hinton 2012, Coursera lecture 6.5; `keras.optimizers.RMSprop`.
    """

    num_slots = 1
    _RHO = 0.9

    def __init__(self, learning_rate: float) -> None:
        """Takes the learning rate."""
        self._rate = learning_rate

    def begin_step(self, number: int) -> None:
        """Has nothing to prepare."""

    def update(self, variable: Array, gradient: Array, slots: Sequence[Array]) -> None:
        """Updates in place."""
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


class Adam:
    """Moments of first and second order, corrected for their start at zero.

    Source: Kingma and Ba 2015, algorithm 1 in the form of its section 2's last remark; `keras.optimizers.Adam`.
    """

    num_slots = 2
    _BETA_1, _BETA_2 = 0.9, 0.999

    def __init__(self, learning_rate: float) -> None:
        """Takes the learning rate."""
        self._rate = self._alpha = learning_rate

    def begin_step(self, number: int) -> None:
        """Corrects the rate for the moments' start."""
        power = number + 1
        self._alpha = self._rate * (1 - self._BETA_2**power) ** 0.5 / (1 - self._BETA_1**power)

    def update(self, variable: Array, gradient: Array, slots: Sequence[Array]) -> None:
        """Updates in place."""
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


class SGD:
    """Steps down the gradient, with momentum where it is asked for.

    Source: Polyak 1964; `keras.optimizers.SGD`.
    """

    def __init__(self, learning_rate: float, momentum: float = 0.0) -> None:
        """Takes the learning rate and the share of the last change that is kept."""
        self._rate, self._momentum = learning_rate, momentum
        self.num_slots = 1 if momentum else 0

    def begin_step(self, number: int) -> None:
        """Has nothing to prepare."""

    def update(self, variable: Array, gradient: Array, slots: Sequence[Array]) -> None:
        """Updates in place."""
        gradient *= self._rate
        if slots:
            (change,) = slots
            change *= self._momentum
            change -= gradient
            variable += change
        else:
            variable -= gradient


def make_optimizer(config: HeadConfig) -> Optimizer:
    """Makes the optimizer that a config names."""
    match config.optimizer:
        case OptimizerName.RMSPROP:
            return RMSprop(config.learning_rate)
        case OptimizerName.ADAM:
            return Adam(config.learning_rate)
        case OptimizerName.SGD:
            return SGD(config.learning_rate, config.momentum)
