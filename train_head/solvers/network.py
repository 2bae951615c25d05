"""The head in NumPy: its probabilities, its loss, and one step of fitting it, by Keras's definitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from train_head.data.batches import Array
from train_head.solvers.head import HeadWeights
from train_head.solvers.optimizers import Optimizer

SLAB_ROWS = 32
"""Rows of the hidden kernel updated at a time: slab, gradient and slots stay in a core's own cache."""
LOGIT_ROWS = 1024
"""Rows taken through the hidden layer at a time where nothing is fitted."""


class Batch(NamedTuple):
    """The rows of one step."""

    features: Array
    """(b, inputs)."""
    targets: NDArray[np.int64]
    """(b,) class numbers."""
    weights: Array
    """(b,) weight of each row."""
    mask: Array | None
    """(b, units): 0 for a dropped unit, 1 / (1 - dropout) for one that stays; None without dropout."""


def draw_mask(rng: np.random.Generator, shape: tuple[int, int], dropout: float) -> Array | None:
    """Draw which hidden units stay, scaled so that their sum keeps its mean ("inverted dropout").

    Source: Srivastava et al. 2014, section 10, as `keras.layers.Dropout` does it.
    """
    if dropout == 0:
        return None
    kept = rng.random(shape, np.float32) >= dropout
    return kept * np.float32(1 / (1 - dropout))


def compute_logits(head: HeadWeights, features: Array, rows: NDArray[np.int64] | None = None) -> Array:
    """Compute (n, outputs) logits of (n, inputs) features, or of some of their rows, nothing dropped."""
    rows = np.arange(len(features)) if rows is None else rows
    parts = [features[rows[start : start + LOGIT_ROWS]] for start in range(0, len(rows), LOGIT_ROWS)]
    return np.concatenate([compute_outputs(head, part @ head.hidden_kernel) for part in parts])


def compute_outputs(head: HeadWeights, hidden: Array) -> Array:
    """Compute (n, outputs) logits of (n, units) products with the hidden kernel, which are overwritten."""
    hidden += head.hidden_bias
    np.maximum(hidden, 0, out=hidden)
    return np.asarray(hidden @ head.output_kernel + head.output_bias, np.float32)


def compute_probabilities(logits: Array) -> Array:
    """Turn (n, outputs) logits into (n, classes) probabilities: a sigmoid for one output, else a softmax.

    Both of two classes come from the logit, in float64 before rounding: 1 - p would be 0 where p rounds to 1.
    """
    exact = logits.astype(np.float64)
    if exact.shape[1] == 1:
        return np.asarray(np.exp(-np.logaddexp(0, np.concatenate([exact, -exact], axis=1))), np.float32)
    raised = np.exp(exact - exact.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)


def predict_targets(logits: Array) -> NDArray[np.int64]:
    """Return the class number of each row of logits; of two equal ones the first."""
    if logits.shape[1] == 1:
        return (logits[:, 0] > 0).astype(np.int64)
    return np.asarray(np.argmax(logits, axis=1), np.int64)


def compute_losses(logits: Array, targets: NDArray[np.int64]) -> tuple[Array, Array]:
    """Compute (n,) cross-entropies in nats and their (n, outputs) derivatives by the (n, outputs) logits.

    From logits rather than probabilities, as in Keras on TensorFlow, so that a sure mistake has a finite loss.
    """
    rows = np.arange(len(targets))
    if logits.shape[1] == 1:
        logit = logits[:, 0]
        losses = np.maximum(logit, 0) - logit * targets + np.log1p(np.exp(-np.abs(logit)))
        slopes = compute_probabilities(logits)[:, 1:] - targets[:, None].astype(np.float32)
    else:
        shifted = logits - logits.max(axis=1, keepdims=True)
        losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[rows, targets]
        slopes = compute_probabilities(logits)
        slopes[rows, targets] -= 1
    return losses.astype(np.float32), slopes


class HeadTrainer:
    """A head in fitting: its weights and the optimizer's state, changed in place."""

    def __init__(self, head: HeadWeights, optimizer: Optimizer, l2: float) -> None:
        """Start from a copy of initial weights; `l2` is the weight of both kernels' sum of squares in the loss."""
        self.head = HeadWeights(*(array.copy() for array in head.list_layers()))
        self.slots = {
            name: [np.zeros_like(array) for _ in range(optimizer.num_slots)]
            for name, array in self.head.list_arrays().items()
        }
        self.num_steps = 0
        self._optimizer, self._l2 = optimizer, np.float32(l2)
        self._gradient = np.empty((min(SLAB_ROWS, len(head.hidden_kernel)), head.hidden_kernel.shape[1]), np.float32)

    def train_on_batch(self, batch: Batch) -> tuple[float, int]:
        """Take a step; return the batch's loss before it, with dropout and L2 term, and the number of correct rows."""
        head = self.head
        hidden = np.asarray(batch.features @ head.hidden_kernel, np.float32)
        hidden += head.hidden_bias
        np.maximum(hidden, 0, out=hidden)
        if batch.mask is not None:
            hidden *= batch.mask
        logits = np.asarray(hidden @ head.output_kernel + head.output_bias, np.float32)
        losses, slopes = compute_losses(logits, batch.targets)
        loss = float(losses @ batch.weights) / len(losses) + self.compute_penalty()
        slopes *= batch.weights[:, None] / len(losses)
        back = np.asarray(slopes @ head.output_kernel.T, np.float32)
        if batch.mask is not None:
            back *= batch.mask
        back *= hidden > 0
        self._optimizer.begin_step(self.num_steps)
        self._update("hidden_bias", back.sum(axis=0))
        self._update("output_bias", slopes.sum(axis=0))
        self._update("output_kernel", np.asarray(hidden.T @ slopes, np.float32), decays=True)
        self._update_hidden_kernel(batch.features, back)
        self.num_steps += 1
        return loss, int(np.sum(predict_targets(logits) == batch.targets))

    def copy_head(self) -> HeadWeights:
        """Copy the weights."""
        return HeadWeights(*(array.copy() for array in self.head.list_layers()))

    def list_arrays(self) -> list[NDArray[Any]]:
        """List everything that the next step depends on, not copied."""
        slots = [slot for slots in self.slots.values() for slot in slots]
        return [np.array(self.num_steps), *self.head.list_layers(), *slots]

    def restore(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Resume where `list_arrays` was called."""
        self.num_steps = int(arrays[0])
        for mine, theirs in zip(self.list_arrays()[1:], arrays[1:], strict=True):
            mine[...] = theirs

    def compute_penalty(self) -> float:
        """Compute the L2 term of the loss."""
        return float(self._l2) * self.head.sum_squares() if self._l2 else 0.0

    def _update(self, name: str, gradient: Array, *, decays: bool = False) -> None:
        variable = getattr(self.head, name)
        if decays and self._l2:
            gradient += 2 * self._l2 * variable
        self._optimizer.update(variable, gradient, self.slots[name])

    def _update_hidden_kernel(self, features: Array, back: Array) -> None:
        kernel, slots = self.head.hidden_kernel, self.slots["hidden_kernel"]
        columns = np.ascontiguousarray(features.T)
        for start in range(0, len(kernel), SLAB_ROWS):
            slab = np.s_[start : start + SLAB_ROWS]
            variable = kernel[slab]
            gradient = np.matmul(columns[slab], back, out=self._gradient[: len(variable)])
            if self._l2:
                gradient += 2 * self._l2 * variable
            self._optimizer.update(variable, gradient, [slot[slab] for slot in slots])
