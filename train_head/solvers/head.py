"""The head: Flatten, Dense, Dropout, and a sigmoid or a softmax."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import HeadstartError
from train_head.data.batches import Array

if TYPE_CHECKING:
    import keras

TAIL_PREFIX = "tail_"


@dataclass(frozen=True)
class HeadWeights:
    """A fitted head as plain arrays; its layers are built in code."""

    hidden_kernel: Array
    """(inputs, units), inputs in Flatten's order."""
    hidden_bias: Array
    output_kernel: Array
    """(units, 1) for two classes, else (units, classes)."""
    output_bias: Array

    def sum_squares(self) -> float:
        """Compute the sum of squares of both kernels, for the L2 term."""
        return sum(float(np.vdot(kernel, kernel)) for kernel in (self.hidden_kernel, self.output_kernel))

    def list_layers(self) -> list[Array]:
        """List the head's four arrays in the order of its layers."""
        return [getattr(self, field.name) for field in fields(HeadWeights)]

    def list_arrays(self) -> dict[str, Array]:
        """List all arrays to keep, by name."""
        return dict(zip((field.name for field in fields(HeadWeights)), self.list_layers(), strict=True))

    @staticmethod
    def from_arrays(arrays: Mapping[str, Array]) -> HeadWeights:
        """Make a head of what `list_arrays` returned; raise KeyError where something is missing."""
        head: dict[str, Any] = {field.name: arrays[field.name] for field in fields(HeadWeights)}
        tail = {name.removeprefix(TAIL_PREFIX): array for name, array in arrays.items() if name.startswith(TAIL_PREFIX)}
        return TunedWeights(**head, tail=tail) if tail else HeadWeights(**head)

    def save(self, path: Path) -> None:
        """Write the arrays as an uncompressed .npz without pickled objects."""
        arrays: dict[str, Any] = self.list_arrays()
        np.savez(path, **arrays)

    @staticmethod
    def parse(data: bytes) -> HeadWeights:
        """Parse the bytes that `save` wrote; raise ValueError, KeyError or an error of NumPy's where they are not."""
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = dict(file)
        if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in arrays.values()):
            raise ValueError("arrays of another type than float32, or numbers that are not finite")
        head = HeadWeights.from_arrays(arrays)
        if [array.ndim for array in head.list_layers()] != [2, 1, 2, 1]:
            raise ValueError("arrays of other dimensions")
        return head


@dataclass(frozen=True)
class TunedWeights(HeadWeights):
    """A head, and the backbone's convolutions that were trained with it."""

    tail: Mapping[str, Array]
    """Kernels, by the names of their layers."""

    def list_arrays(self) -> dict[str, Array]:
        """List the head's arrays, and the kernels."""
        return super().list_arrays() | {f"{TAIL_PREFIX}{name}": kernel for name, kernel in self.tail.items()}


def count_outputs(num_classes: int) -> int:
    """Return the number of a head's outputs: one sigmoid for two classes, else a softmax of as many."""
    return 1 if num_classes == 2 else num_classes


def build_head(
    feature_shape: Sequence[int], num_classes: int, units: int, dropout: float, seed: int | None = 0, *, l2: float = 0.0
) -> keras.Sequential:
    """Build a head with Keras's initial weights (Glorot uniform, zero biases).

    Args:
        feature_shape: shape of one feature, (7, 7, 768) for mixed7 at 150 px.
        num_classes: two or more.
        units: units of the hidden layer.
        dropout: share of hidden units dropped in training.
        seed: seed of initial weights and dropout; None makes zeros, which take a third of the memory, to be replaced.
        l2: weight of both kernels' sum of squares in the loss.

    Returns:
        A model from (n, *feature_shape) float32 to (n, outputs) probabilities; for two classes the one output is
        the probability of the second.
    """
    import keras

    outputs = count_outputs(num_classes)
    decay = keras.regularizers.L2(l2) if l2 else None
    if seed is None:
        initial = [keras.initializers.Zeros()] * 2
    else:
        # TensorFlow takes seeds of 32 bits.
        initial = [keras.initializers.GlorotUniform(seed=(2 * seed + offset) % 2**32) for offset in (0, 1)]
    return keras.Sequential(
        [
            keras.Input(tuple(feature_shape), name="feature"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(
                units, activation="relu", kernel_initializer=initial[0], kernel_regularizer=decay, name="hidden"
            ),
            keras.layers.Dropout(dropout, seed=seed or 0, name="dropout"),
            keras.layers.Dense(
                outputs,
                activation="sigmoid" if outputs == 1 else "softmax",
                kernel_initializer=initial[1],
                kernel_regularizer=decay,
                name="probability",
            ),
        ],
        name="head",
    )


def extract_weights(head: keras.Sequential) -> HeadWeights:
    """Copy the arrays of a head."""
    return HeadWeights(*head.get_weights())


def restore_head(
    weights: HeadWeights, feature_shape: Sequence[int], num_classes: int, dropout: float
) -> keras.Sequential:
    """Build a head with fitted weights; raise HeadstartError where the arrays do not fit the features."""
    head = build_head(feature_shape, num_classes, weights.hidden_kernel.shape[-1], dropout, seed=None)
    shapes = [array.shape for array in weights.list_layers()]
    expected = [tuple(weight.shape) for weight in head.weights if "seed" not in weight.name]
    if shapes != expected:
        raise HeadstartError("the fitted head", f"arrays of shapes {expected}", str(shapes), "Train it again")
    head.set_weights(weights.list_layers())
    return head


def expand_probabilities(outputs: Array) -> Array:
    """Turn (n, 1) sigmoid or (n, classes) softmax outputs into (n, classes) float32 probabilities."""
    if outputs.shape[1] > 1:
        return outputs
    return np.concatenate([1 - outputs, outputs], axis=1)
