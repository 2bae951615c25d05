"""History of a fit, and early stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from base.errors import HeadstartError
from train_head.solvers.head import HeadWeights


@dataclass(frozen=True)
class Epoch:
    """One row of a fit's history.

    Losses are cross-entropies in nats with the L2 penalty, accuracies are shares in [0, 1]. Training values are means
    over the epoch's steps, with dropout; validation values are measured after the epoch, without dropout.
    """

    epoch: int
    """Number of the epoch, from 1."""
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float

    @property
    def is_finite(self) -> bool:
        """Whether both losses are finite."""
        return math.isfinite(self.loss) and math.isfinite(self.val_loss)

    def describe_losses(self) -> str:
        """Return both losses as text, with four significant digits."""
        return f"{self.loss:.4g} (validation: {self.val_loss:.4g})"


class DivergedError(HeadstartError):
    """The loss was NaN or infinite in the first epoch, so that there are no weights to keep."""

    def __init__(self, row: Epoch, learning_rate: float) -> None:
        """Create the error for the first epoch of a fit."""
        self.row = row
        got = f"{row.describe_losses()} at learning rate {learning_rate:g}"
        super().__init__(f"epoch {row.epoch}", "a finite loss", got, "Lower the learning rate (`learning_rate`)")


class PartlyDivergedError(HeadstartError):
    """The loss was NaN or infinite after at least one finite epoch; the run keeps the head of a finite epoch."""


class EarlyStopping:
    """History of a fit, and the weights to keep.

    Without patience the weights of the last finite epoch are kept; with patience, the weights of the finite epoch
    with the lowest validation loss (the first, if several are equal).
    """

    def __init__(self, patience: int, history: Sequence[Epoch] = (), kept: HeadWeights | None = None) -> None:
        """Start a history, or resume one.

        Args:
            patience: number of epochs without a lower validation loss after which to stop; 0 stops only at a loss
                that is NaN or infinite.
            history: the epochs before an interruption.
            kept: the weights to keep from these epochs.
        """
        self.history = list(history)
        self.kept = kept
        self._patience = patience

    @property
    def kept_epoch(self) -> int:
        """Number of the epoch whose weights are kept, from 1; 0 if no epoch is finite."""
        finite = [row for row in self.history if row.is_finite]
        if not finite:
            return 0
        return min(finite, key=lambda row: row.val_loss).epoch if self._patience else finite[-1].epoch

    @property
    def is_over(self) -> bool:
        """Whether to stop: the last epoch is not finite, or patience has run out."""
        if not self.history:
            return False
        last = self.history[-1]
        return not last.is_finite or 0 < self._patience <= last.epoch - self.kept_epoch

    def record(self, row: Epoch, copy_weights: Callable[[], HeadWeights]) -> None:
        """Add an epoch; `copy_weights` returns a copy of its weights, and is called only if they are to be kept."""
        self.history.append(row)
        if self.kept_epoch == row.epoch:
            # Freed first, because two copies of a large head do not fit in 2 GB.
            self.kept = None
            self.kept = copy_weights()

    def require_kept(self, learning_rate: float) -> HeadWeights:
        """Return the kept weights; raise DivergedError if no epoch was finite."""
        if self.kept is None:
            raise DivergedError(self.history[-1], learning_rate)
        return self.kept
