"""Follows a fit from epoch to epoch: what it did, which weights to keep, when to stop."""

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
        """Whether both losses are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.val_loss)


class DivergedError(HeadstartError):
    """The loss was no number before any epoch was good: there is no head."""

    def __init__(self, row: Epoch, learning_rate: float) -> None:
        """Says at which epoch and learning rate."""
        self.row = row
        super().__init__(
            f"epoch {row.epoch}",
            "a finite loss",
            f"{describe_losses(row)} at learning rate {learning_rate:g}",
            "Nothing was kept. Try a smaller --learning-rate (LEARNING_RATE=)",
        )


class PartlyDivergedError(HeadstartError):
    """The loss was no number after a good epoch: the run keeps the head of that one."""


class Watch:
    """Keeps the history and the weights of the epoch that counts: the last sound one, or the best."""

    def __init__(self, patience: int, history: Sequence[Epoch] = (), kept: HeadWeights | None = None) -> None:
        """Starts anew, or goes on.

        Args:
            patience: epochs without a better validation loss before stopping; 0 never stops, and keeps the last.
            history: what was recorded before.
            kept: the weights that were kept then.
        """
        self.history = list(history)
        self.kept = kept
        self._patience = patience

    @property
    def kept_epoch(self) -> int:
        """The epoch whose weights are kept, from 1; 0 where there is none."""
        sound = [row for row in self.history if row.is_finite]
        if not sound:
            return 0
        return min(sound, key=lambda row: row.val_loss).epoch if self._patience else sound[-1].epoch

    @property
    def is_over(self) -> bool:
        """Whether there is no point in another epoch."""
        if not self.history:
            return False
        last = self.history[-1]
        return not last.is_finite or 0 < self._patience <= last.epoch - self.kept_epoch

    def record(self, row: Epoch, take_weights: Callable[[], HeadWeights]) -> None:
        """Adds an epoch.

        Args:
            row: the epoch.
            take_weights: gives a copy of its weights; called where they are to be kept.
        """
        self.history.append(row)
        if self.kept_epoch == row.epoch:
            self.kept = take_weights()

    def require_kept(self, learning_rate: float) -> HeadWeights:
        """Returns the weights that count.

        Raises:
            DivergedError: there are none, because the first epoch's loss was no number.
        """
        if self.kept is None:
            raise DivergedError(self.history[-1], learning_rate)
        return self.kept


def describe_losses(row: Epoch) -> str:
    """Says both losses of an epoch."""
    return f"{row.loss:.4g} (validation: {row.val_loss:.4g})"
