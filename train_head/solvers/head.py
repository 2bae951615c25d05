"""The head: Flatten, Dense with ReLU, Dropout, and Dense with a sigmoid, a softmax or a sigmoid for each label."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from base.errors import HeadstartError
from train_head.data.batches import Array

if TYPE_CHECKING:
    import keras

TAIL_PREFIX = "tail_"
"""Prefix of the backbone's kernels among the saved arrays."""


@dataclass(frozen=True)
class HeadWeights:
    """Weights of a head, as float32 arrays without Keras.

    The inputs of a head are one feature in row-major order, as Flatten gives them.
    """

    hidden_kernel: Array | None
    """(inputs, units); None for a linear head, which has no hidden layer."""
    hidden_bias: Array | None
    """(units,); None for a linear head."""
    output_kernel: Array
    """(units, outputs), or (inputs, outputs) of a linear head: one output for two classes, else one per class."""
    output_bias: Array
    """(outputs,)."""

    @property
    def input_kernel(self) -> Array:
        """Kernel that is multiplied with the features: (inputs, units), or (inputs, outputs) of a linear head."""
        return self.output_kernel if self.hidden_kernel is None else self.hidden_kernel

    @property
    def input_bias(self) -> Array:
        """Bias that is added to the products of features and `input_kernel`: (units,) or (outputs,)."""
        return self.output_bias if self.hidden_bias is None else self.hidden_bias

    @property
    def num_units(self) -> int:
        """Number of units in the hidden layer; 0 for a linear head."""
        return 0 if self.hidden_bias is None else len(self.hidden_bias)

    def with_input_kernel(self, kernel: Array) -> HeadWeights:
        """Return the same head with another `input_kernel`."""
        name = "output_kernel" if self.hidden_kernel is None else "hidden_kernel"
        return replace(self, **{name: kernel})

    def divide_logits(self, temperature: float) -> HeadWeights:
        """Return the same head with its logits divided by a temperature."""
        if temperature == 1:
            return self
        kernel, bias = (np.asarray(array / temperature, np.float32) for array in (self.output_kernel, self.output_bias))
        return replace(self, output_kernel=kernel, output_bias=bias)

    def sum_squares(self) -> float:
        """Return the sum of squares of all kernels, for the L2 penalty."""
        return sum(float(np.vdot(kernel, kernel)) for kernel in self.list_weights()[::2])

    def list_weights(self) -> list[Array]:
        """List the arrays, two for each layer, in the order of Keras's `get_weights`."""
        return list(HeadWeights.to_arrays(self).values())

    def to_arrays(self) -> dict[str, Array]:
        """Return all arrays to save, with their names as keys."""
        arrays = {each.name: getattr(self, each.name) for each in fields(HeadWeights)}
        return {name: array for name, array in arrays.items() if array is not None}

    @staticmethod
    def from_arrays(arrays: Mapping[str, Array]) -> HeadWeights:
        """Create the weights from the result of `to_arrays`; raise KeyError if an array is missing."""
        hidden = "hidden_kernel", "hidden_bias"
        is_linear = not arrays.keys() & set(hidden)
        head: dict[str, Any] = {name: None if is_linear else arrays[name] for name in hidden}
        head |= {name: arrays[name] for name in ("output_kernel", "output_bias")}
        tail = {name.removeprefix(TAIL_PREFIX): array for name, array in arrays.items() if name.startswith(TAIL_PREFIX)}
        return TunedWeights(**head, tail=tail) if tail else HeadWeights(**head)

    def save(self, path: Path) -> None:
        """Write the arrays to an uncompressed .npz file."""
        arrays: dict[str, Any] = self.to_arrays()
        np.savez(path, **arrays)

    @staticmethod
    def parse(data: bytes) -> HeadWeights:
        """Parse the bytes of a file that `save` wrote, without loading pickled objects.

        Raises:
            ValueError: an array is not float32, not finite, or has the wrong number of dimensions.
            KeyError: an array is missing.
            Exception: the file is damaged; zipfile, zlib and NumPy raise different exceptions.
        """
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = dict(file)
        if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in arrays.values()):
            raise ValueError("arrays that are not float32 or not finite")
        head = HeadWeights.from_arrays(arrays)
        if any(array.ndim != (1 if number % 2 else 2) for number, array in enumerate(head.list_weights())):
            raise ValueError("arrays with the wrong number of dimensions")
        return head


@dataclass(frozen=True)
class TunedWeights(HeadWeights):
    """Weights of a head, and of the backbone's convolutions that were trained with it."""

    tail: Mapping[str, Array]
    """Kernels, keyed by layer name."""

    def to_arrays(self) -> dict[str, Array]:
        """Return the head's arrays and the backbone's kernels, with their names as keys."""
        return super().to_arrays() | {f"{TAIL_PREFIX}{name}": kernel for name, kernel in self.tail.items()}


@dataclass(frozen=True)
class FactoredWeights(HeadWeights):
    """Weights of a head whose hidden kernel is a product: `factor` (inputs, r) times `hidden_kernel` (r, units)."""

    factor: Array = field(kw_only=True)

    @property
    def input_kernel(self) -> Array:
        """Kernel that is multiplied with the features: (inputs, r)."""
        return self.factor

    def list_weights(self) -> list[Array]:
        """List the arrays in the order of Keras's `get_weights`: the factor, then two for each layer."""
        return [self.factor, *super().list_weights()]


class Outputs(NamedTuple):
    """Outputs of a head."""

    num_outputs: int
    activation: str
    """`sigmoid` or `softmax`."""


def plan_outputs(num_classes: int, *, is_multi_label: bool = False) -> Outputs:
    """Return the outputs of a head: a sigmoid for two classes, else a softmax; a sigmoid per label for several labels.

    Args:
        num_classes: two or more.
        is_multi_label: whether a picture has any number of the classes, instead of one.
    """
    if is_multi_label:
        return Outputs(num_classes, "sigmoid")
    return Outputs(1, "sigmoid") if num_classes == 2 else Outputs(num_classes, "softmax")


def count_outputs(num_classes: int, *, is_multi_label: bool = False) -> int:
    """Return the number of outputs of a head; the arguments are those of `plan_outputs`."""
    return plan_outputs(num_classes, is_multi_label=is_multi_label).num_outputs


def build_head(
    feature_shape: Sequence[int],
    outputs: Outputs | int,
    units: int,
    dropout: float,
    seed: int | None = 0,
    *,
    l2: float = 0.0,
) -> keras.Sequential:
    """Build a head with Keras's initial weights: Glorot uniform kernels and zero biases.

    Args:
        feature_shape: shape of one feature, (7, 7, 768) for mixed7 at 150 px.
        outputs: the outputs; an integer is the number of classes of which a picture has one.
        units: units of the hidden layer; 0 builds a linear head, without hidden layer and dropout.
        dropout: share of hidden units dropped in training.
        seed: seed of the initial weights and of dropout. None creates zero kernels, for weights that are set later;
            creating them takes a third of the memory that random ones need.
        l2: weight of the L2 penalty, the sum of squares of both kernels, in the loss.

    Returns:
        A model from (n, *feature_shape) float32 to (n, outputs) probabilities; for two classes the only output is
        the probability of the second class.
    """
    import keras

    num_outputs, activation = plan_outputs(outputs) if isinstance(outputs, int) else outputs
    decay = keras.regularizers.L2(l2) if l2 else None
    if seed is None:
        initial = [keras.initializers.Zeros()] * 2
    else:
        # TensorFlow accepts seeds of 32 bits.
        initial = [keras.initializers.GlorotUniform(seed=(2 * seed + offset) % 2**32) for offset in (0, 1)]
    hidden: list[keras.layers.Layer] = []
    if units:
        hidden = [
            keras.layers.Dense(
                units, activation="relu", kernel_initializer=initial[0], kernel_regularizer=decay, name="hidden"
            ),
            keras.layers.Dropout(dropout, seed=seed or 0, name="dropout"),
        ]
    return keras.Sequential(
        [
            keras.Input(tuple(feature_shape), name="feature"),
            keras.layers.Flatten(name="flatten"),
            *hidden,
            keras.layers.Dense(
                num_outputs,
                activation=activation,
                kernel_initializer=initial[1],
                kernel_regularizer=decay,
                name="probability",
            ),
        ],
        name="head",
    )


def extract_weights(head: keras.Sequential) -> HeadWeights:
    """Copy the weights of a Keras head."""
    arrays = head.get_weights()
    return HeadWeights(*(arrays if len(arrays) > 2 else (None, None, *arrays)))


def restore_head(
    weights: HeadWeights, feature_shape: Sequence[int], outputs: Outputs | int, dropout: float
) -> keras.Sequential:
    """Build a head with fitted weights; raise HeadstartError if their shapes do not match the features.

    Factored weights have a further layer `factor`, without bias and activation, before the hidden layer.
    """
    if isinstance(weights, FactoredWeights):
        head = _build_factored(weights, feature_shape, outputs, dropout)
    else:
        head = build_head(feature_shape, outputs, weights.num_units, dropout, seed=None)
    shapes = [array.shape for array in weights.list_weights()]
    expected = [tuple(weight.shape) for weight in head.weights if "seed" not in weight.name]
    if shapes != expected:
        raise HeadstartError("the fitted head", f"arrays of shapes {expected}", str(shapes), "Train again")
    head.set_weights(weights.list_weights())
    return head


def _build_factored(
    weights: FactoredWeights, feature_shape: Sequence[int], outputs: Outputs | int, dropout: float
) -> keras.Sequential:
    import keras

    rank = weights.factor.shape[-1]
    layers = build_head((rank,), outputs, weights.num_units, dropout, seed=None).layers
    return keras.Sequential(
        [
            keras.Input(tuple(feature_shape), name="feature"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(rank, use_bias=False, kernel_initializer=keras.initializers.Zeros(), name="factor"),
            *layers[1:],
        ],
        name="head",
    )


def expand_probabilities(outputs: Array) -> Array:
    """Convert (n, 1) sigmoid outputs to (n, 2) probabilities [1 - p, p]; return (n, classes) outputs unchanged."""
    if outputs.shape[1] > 1:
        return outputs
    return np.concatenate([1 - outputs, outputs], axis=1)
