"""The head in NumPy: logits, probabilities, loss, and training steps, with Keras's definitions.

For features x (b, inputs), kernels W₁ and W₂, biases b₁ and b₂, a dropout mask m (b, units) and row weights w (b,):

    h = relu(x W₁ + b₁) ⊙ m                                hidden layer, (b, units)
    z = h W₂ + b₂                                          logits, (b, outputs)
    loss = 1/b Σ wᵢ ℓ(zᵢ, targetᵢ) + l2 (‖W₁‖² + ‖W₂‖²)    Frobenius norms

A linear head has no hidden layer: h = x, and the loss has no W₁.

ℓ is the cross-entropy of softmax(z), or of sigmoid(z) if there is one output. With several labels a picture, it is the
mean over the labels of the cross-entropies of sigmoid(z), and w can have a weight for each label, (b, labels). Arrays
are float32, class numbers int64, labels uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from train_head.data.batches import Array
from train_head.data.split import Targets
from train_head.reduction.row_file import Matrix
from train_head.solvers.head import HeadWeights
from train_head.solvers.optimizers import Optimizer

SLAB_ROWS = 32
"""Rows of the hidden kernel updated at a time, so that they, their gradient and slots fit in a core's L2 cache."""
LOGIT_ROWS = 1024
"""Rows of features per matrix product when logits are computed without training."""


class Batch(NamedTuple):
    """Rows of one training step."""

    features: Array
    """(b, inputs)."""
    targets: Targets
    """(b,) class numbers, or (b, classes) labels."""
    weights: Array
    """Weight of each target in the loss, in the shape of the targets."""
    mask: Array | None
    """(b, units) dropout mask, as returned by `draw_mask`; None without dropout."""


def draw_mask(rng: np.random.Generator, shape: tuple[int, int], dropout: float) -> Array | None:
    """Draw a dropout mask: 0 with probability `dropout`, else 1 / (1 - dropout).

    The scale keeps the expected value of each unit ("inverted dropout"), so that prediction needs no correction.

    Source: Srivastava et al. 2014, section 10; `keras.layers.Dropout`.

    Returns:
        The mask, float32 of this shape; None, without drawing a number, if `dropout` is 0.
    """
    if dropout == 0:
        return None
    kept = rng.random(shape, np.float32) >= dropout
    return kept * np.float32(1 / (1 - dropout))


def compute_logits(head: HeadWeights, features: Matrix, rows: NDArray[np.int64] | None = None) -> Array:
    """Compute (n, outputs) logits of (n, inputs) features, or of the given rows of them, without dropout."""
    rows = np.arange(len(features)) if rows is None else rows
    parts = (features[rows[start : start + LOGIT_ROWS]] for start in range(0, len(rows), LOGIT_ROWS))
    return np.concatenate([compute_outputs(head, part @ head.input_kernel) for part in parts])


def compute_outputs(head: HeadWeights, hidden: Array) -> Array:
    """Compute (n, outputs) logits from the products of features and input kernel; `hidden` is overwritten.

    Args:
        head: the head.
        hidden: (n, units) for a head with a hidden layer, (n, outputs) for a linear one.
    """
    if head.hidden_bias is None:
        return np.asarray(hidden + head.output_bias, np.float32)
    hidden += head.hidden_bias
    np.maximum(hidden, 0, out=hidden)
    return np.asarray(hidden @ head.output_kernel + head.output_bias, np.float32)


def compute_probabilities(logits: Array, *, is_multi_label: bool = False) -> Array:
    """Convert (n, outputs) logits to (n, classes) float32 probabilities: sigmoid for one output, else softmax.

    With several labels a picture, each output has a sigmoid. Computed in float64 and then rounded. With one output both
    probabilities come from the logit, sigmoid(-z) and sigmoid(z), because 1 - p would be 0 as soon as p rounds to 1.
    """
    exact = logits.astype(np.float64)
    if is_multi_label:
        return np.asarray(np.exp(-np.logaddexp(0, -exact)), np.float32)
    if exact.shape[1] == 1:
        return np.asarray(np.exp(-np.logaddexp(0, np.concatenate([exact, -exact], axis=1))), np.float32)
    raised = np.exp(exact - exact.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)


def predict_targets(logits: Array) -> NDArray[np.int64]:
    """Return the (n,) predicted class numbers of (n, outputs) logits; the lowest number if logits are equal."""
    if logits.shape[1] == 1:
        return (logits[:, 0] > 0).astype(np.int64)
    return np.asarray(np.argmax(logits, axis=1), np.int64)


def count_correct(logits: Array, targets: Targets) -> int:
    """Count the rows of (n, outputs) logits that are predicted correctly; of several labels, all must be."""
    if targets.ndim == 2:
        return int(np.sum(((logits >= 0) == targets).all(axis=1)))
    return int(np.sum(predict_targets(logits) == targets))


def compute_losses(logits: Array, targets: Targets) -> tuple[Array, Array]:
    """Compute cross-entropies in nats, in the shape of the targets, and their (n, outputs) derivatives by the logits.

    With one output ℓ = max(z, 0) - z t + log(1 + exp(-|z|)) for targets t of 0 or 1; else
    ℓ = log Σ exp(z - max z) - (zₜ - max z). The derivative is the probability minus the one-hot target. As in Keras on
    TensorFlow, the loss is computed from logits, not from probabilities, so that it is finite even for large logits.
    """
    rows = np.arange(len(targets))
    if targets.ndim == 2:
        losses = _compute_sigmoid_losses(logits, targets)
        gradients = compute_probabilities(logits, is_multi_label=True) - targets.astype(np.float32)
    elif logits.shape[1] == 1:
        losses = _compute_sigmoid_losses(logits[:, 0], targets)
        gradients = compute_probabilities(logits)[:, 1:] - targets[:, None].astype(np.float32)
    else:
        shifted = logits - logits.max(axis=1, keepdims=True)
        losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[rows, targets]
        gradients = compute_probabilities(logits)
        gradients[rows, targets] -= 1
    return losses.astype(np.float32), gradients


def _compute_sigmoid_losses(logits: Array, targets: Targets) -> Array:
    return np.asarray(np.maximum(logits, 0) - logits * targets + np.log1p(np.exp(-np.abs(logits))))


class HeadTrainer:
    """Head in training: weights and optimizer state, updated in place by each step."""

    def __init__(self, head: HeadWeights, optimizer: Optimizer, l2: float) -> None:
        """Start from initial weights, which are copied.

        Args:
            head: the initial weights.
            optimizer: updates the weights.
            l2: weight of the L2 penalty, the sum of squares of both kernels, in the loss.
        """
        self.head = _copy(head)
        self.slots = {
            name: [np.zeros_like(array) for _ in range(optimizer.num_slots)]
            for name, array in self.head.to_arrays().items()
        }
        self.num_steps = 0
        self._optimizer, self._l2 = optimizer, np.float32(l2)
        num_inputs, num_outputs = head.input_kernel.shape
        self._gradient = np.empty((min(SLAB_ROWS, num_inputs), num_outputs), np.float32)

    def train_on_batch(self, batch: Batch) -> tuple[float, int]:
        """Take one training step.

        Returns:
            The batch's loss before the step, with dropout and L2 penalty, and the number of rows that were predicted
            correctly, with dropout.
        """
        head = self.head
        hidden = np.asarray(batch.features @ head.input_kernel, np.float32)
        if head.hidden_bias is None:
            logits = hidden + head.output_bias
        else:
            hidden += head.hidden_bias
            np.maximum(hidden, 0, out=hidden)
            if batch.mask is not None:
                hidden *= batch.mask
            logits = np.asarray(hidden @ head.output_kernel + head.output_bias, np.float32)
        losses, gradients = compute_losses(logits, batch.targets)
        loss = float(losses.ravel() @ batch.weights.ravel()) / losses.size + self.compute_penalty()
        gradients *= batch.weights.reshape(len(losses), -1) / losses.size
        self._optimizer.begin_step(self.num_steps)
        input_gradients = gradients
        if head.hidden_bias is not None:
            input_gradients = np.asarray(gradients @ head.output_kernel.T, np.float32)
            if batch.mask is not None:
                input_gradients *= batch.mask
            input_gradients *= hidden > 0
            self._update("hidden_bias", input_gradients.sum(axis=0))
            self._update("output_kernel", np.asarray(hidden.T @ gradients, np.float32), has_penalty=True)
        self._update("output_bias", gradients.sum(axis=0))
        self._update_input_kernel(batch.features, input_gradients)
        self.num_steps += 1
        return loss, count_correct(logits, batch.targets)

    def copy_head(self) -> HeadWeights:
        """Return a copy of the weights."""
        return _copy(self.head)

    def list_arrays(self) -> list[NDArray[Any]]:
        """List the number of steps, the weights and the optimizer's slots, without copying them."""
        slots = [slot for slots in self.slots.values() for slot in slots]
        return [np.array(self.num_steps), *self.head.list_weights(), *slots]

    def restore(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Restore the state that `list_arrays` returned."""
        self.num_steps = int(arrays[0])
        for current, saved in zip(self.list_arrays()[1:], arrays[1:], strict=True):
            current[...] = saved

    def compute_penalty(self) -> float:
        """Return the L2 penalty of the current weights."""
        return float(self._l2) * self.head.sum_squares() if self._l2 else 0.0

    def _update(self, name: str, gradient: Array, *, has_penalty: bool = False) -> None:
        variable = getattr(self.head, name)
        if has_penalty and self._l2:
            gradient += 2 * self._l2 * variable
        self._optimizer.update(variable, gradient, self.slots[name])

    def _update_input_kernel(self, features: Array, input_gradients: Array) -> None:
        """Update the kernel of the features with its gradient xᵀ G in slabs of rows.

        G is the gradient with respect to the input of the ReLU, (b, units), or to the logits of a linear head.
        """
        kernel = self.head.input_kernel
        slots = self.slots["output_kernel" if self.head.hidden_kernel is None else "hidden_kernel"]
        columns = np.ascontiguousarray(features.T)
        for start in range(0, len(kernel), SLAB_ROWS):
            slab = np.s_[start : start + SLAB_ROWS]
            variable = kernel[slab]
            gradient = np.matmul(columns[slab], input_gradients, out=self._gradient[: len(variable)])
            if self._l2:
                gradient += 2 * self._l2 * variable
            self._optimizer.update(variable, gradient, [slot[slab] for slot in slots])


def _copy(head: HeadWeights) -> HeadWeights:
    return HeadWeights.from_arrays({name: array.copy() for name, array in head.to_arrays().items()})
