"""The history of a fit: its epochs, which weights to keep, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from base.errors import HeadstartError
from train_head.solvers.head import HeadWeights


@dataclass(frozen=True)
class Epoch:
    """One row of the history; losses in nats, accuracies as shares, training values with dropout on."""

    epoch: int
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
        """Describe both losses."""
        return f"{self.loss:.4g} (validation: {self.val_loss:.4g})"


class DivergedError(HeadstartError):
    """The loss was NaN or infinite before any epoch was good: there is no head."""

    def __init__(self, row: Epoch, learning_rate: float) -> None:
        """Create the error for an epoch."""
        self.row = row
        got = f"{row.describe_losses()} at learning rate {learning_rate:g}"
        advice = "Nothing was kept. Try a smaller --learning-rate (LEARNING_RATE=)"
        super().__init__(f"epoch {row.epoch}", "a finite loss", got, advice)


class PartlyDivergedError(HeadstartError):
    """The loss was NaN or infinite after a good epoch: the run keeps the head of that one."""


class EarlyStopping:
    """The history of a fit and the weights of the epoch to keep: the last finite one, or with patience the best."""

    def __init__(self, patience: int, history: Sequence[Epoch] = (), kept: HeadWeights | None = None) -> None:
        """Start, or resume; a patience of 0 never stops, and keeps the last epoch."""
        self.history = list(history)
        self.kept = kept
        self._patience = patience

    @property
    def kept_epoch(self) -> int:
        """The epoch whose weights are kept, from 1; 0 where there is none."""
        finite = [row for row in self.history if row.is_finite]
        if not finite:
            return 0
        return min(finite, key=lambda row: row.val_loss).epoch if self._patience else finite[-1].epoch

    @property
    def is_over(self) -> bool:
        """Whether to stop."""
        if not self.history:
            return False
        last = self.history[-1]
        return not last.is_finite or 0 < self._patience <= last.epoch - self.kept_epoch

    def record(self, row: Epoch, copy_weights: Callable[[], HeadWeights]) -> None:
        """Add an epoch; `copy_weights` returns a copy of its weights, and is called where they are to be kept."""
        self.history.append(row)
        if self.kept_epoch == row.epoch:
            self.kept = copy_weights()

    def require_kept(self, learning_rate: float) -> HeadWeights:
        """Return the kept weights; raise DivergedError where the first epoch's loss was NaN or infinite."""
        if self.kept is None:
            raise DivergedError(self.history[-1], learning_rate)
        return self.kept
