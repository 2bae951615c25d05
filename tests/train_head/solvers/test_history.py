"""Early stopping: the kept epoch, the last epoch, and resuming after an interruption."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tests.errors import raises
from train_head.solvers.head import HeadWeights
from train_head.solvers.history import DivergedError, EarlyStopping, Epoch

pytestmark = pytest.mark.unit

NAN, INF = math.nan, math.inf


def make_epoch(number: int, val_loss: float, loss: float = 0.5) -> Epoch:
    return Epoch(number, loss, 0.75, val_loss, 0.5, 0.1)


def make_weights(number: int) -> HeadWeights:
    """Make weights whose values are the number of their epoch."""
    one = np.full((1, 1), number, np.float32)
    return HeadWeights(one, one[0], one, one[0])


class WeightCopier:
    """Copies the weights of an epoch, and records the numbers of the epochs copied."""

    def __init__(self) -> None:
        self.copied: list[int] = []

    def copy_later(self, number: int) -> Callable[[], HeadWeights]:
        def copy() -> HeadWeights:
            self.copied.append(number)
            return make_weights(number)

        return copy


def record_losses(
    stopping: EarlyStopping, losses: Sequence[float], copier: WeightCopier | None = None
) -> EarlyStopping:
    """Record validation losses after those of the history, until the fit is over."""
    copier = copier or WeightCopier()
    for number, val_loss in enumerate(losses, 1):
        if number > len(stopping.history) and not stopping.is_over:
            stopping.record(make_epoch(number, val_loss), copier.copy_later(number))
    return stopping


def read_kept(stopping: EarlyStopping) -> int:
    return int(stopping.require_kept(1e-4).output_bias[0])


def test_early_stopping_without_epochs_keeps_nothing() -> None:
    for patience in (0, 1):
        stopping = EarlyStopping(patience)
        assert (stopping.history, stopping.kept, stopping.kept_epoch, stopping.is_over) == ([], None, 0, False)


def test_early_stopping_without_patience_keeps_the_last_epoch() -> None:
    stopping, copier = EarlyStopping(0), WeightCopier()
    record_losses(stopping, [0.1, 0.9, 0.5, 7.0, 8.0, 9.0], copier)
    assert [row.epoch for row in stopping.history] == [1, 2, 3, 4, 5, 6]
    assert (stopping.kept_epoch, read_kept(stopping), stopping.is_over) == (6, 6, False)
    assert copier.copied == [1, 2, 3, 4, 5, 6]


def test_early_stopping_with_patience_copies_only_better_weights() -> None:
    stopping, copier = EarlyStopping(3), WeightCopier()
    record_losses(stopping, [0.9, 0.5, 0.7, 0.4, 0.45, 0.6], copier)
    assert (stopping.kept_epoch, read_kept(stopping), stopping.is_over) == (4, 4, False)
    assert copier.copied == [1, 2, 4]
    assert len(stopping.history) == 6


@pytest.mark.parametrize(
    ("patience", "losses", "kept", "num_epochs"),
    [
        pytest.param(1, [0.5, 0.6, 0.1], 1, 2, id="one-worse"),
        pytest.param(2, [0.5, 0.6, 0.4, 0.5, 0.6, 0.1], 3, 5, id="a-better-one-restarts-the-count"),
        pytest.param(3, [0.9, 0.8, 0.81, 0.82, 0.83, 0.1], 2, 5, id="three-worse"),
        pytest.param(2, [0.5, 0.5, 0.5, 0.5], 1, 3, id="equal-is-not-better"),
        pytest.param(2, [0.5, 0.6, 0.55, 0.1], 1, 3, id="better-than-the-last-only"),
        pytest.param(2, [0.5, 0.4, 0.3, 0.2], 4, 4, id="always-better"),
    ],
)
def test_early_stopping_stops_when_patience_runs_out(
    patience: int, losses: list[float], kept: int, num_epochs: int
) -> None:
    stopping = record_losses(EarlyStopping(patience), losses)
    assert (stopping.kept_epoch, read_kept(stopping), len(stopping.history)) == (kept, kept, num_epochs)
    assert stopping.is_over == (num_epochs - kept == patience)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("where", ["loss", "val_loss"])
@pytest.mark.parametrize(("patience", "kept"), [(0, 3), (9, 2)])
def test_early_stopping_stops_at_a_nonfinite_loss_and_keeps_a_finite_epoch(
    bad: float, where: str, patience: int, kept: int
) -> None:
    stopping, copier = EarlyStopping(patience), WeightCopier()
    record_losses(stopping, [0.6, 0.4, 0.5], copier)
    assert not stopping.is_over
    losses = {"loss": 0.3, "val_loss": 0.01} | {where: bad}
    stopping.record(make_epoch(4, losses["val_loss"], losses["loss"]), copier.copy_later(4))
    assert stopping.is_over
    assert not stopping.history[-1].is_finite
    assert (stopping.kept_epoch, read_kept(stopping)) == (kept, kept)
    assert copier.copied == ([1, 2, 3] if patience == 0 else [1, 2])


@pytest.mark.parametrize("patience", [0, 2])
def test_early_stopping_at_a_nonfinite_first_epoch_raises(patience: int) -> None:
    stopping, copier = EarlyStopping(patience), WeightCopier()
    row = make_epoch(1, NAN, 1234.5678)
    stopping.record(row, copier.copy_later(1))
    assert (stopping.is_over, stopping.kept_epoch, stopping.kept, copier.copied) == (True, 0, None, [])
    got = "1235 (validation: nan) at learning rate 0.025"
    with raises(DivergedError, where="epoch 1", got=got, exit_status=1) as caught:
        stopping.require_kept(0.025)
    assert caught.value.row is row


@pytest.mark.parametrize("patience", [0, 2, 3])
@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_early_stopping_resumed_at_any_epoch_equals_an_uninterrupted_one(patience: int, at: int) -> None:
    losses = [0.9, 0.5, 0.6, 0.4, 0.7, 0.8, 0.41, 0.1]
    whole, copier = EarlyStopping(patience), WeightCopier()
    record_losses(whole, losses, copier)
    first = record_losses(EarlyStopping(patience), losses[:at])
    resumed, rest = EarlyStopping(patience, tuple(first.history), first.kept), WeightCopier()
    assert (resumed.kept_epoch, resumed.is_over) == (first.kept_epoch, first.is_over)
    record_losses(resumed, losses, rest)
    assert resumed.history == whole.history
    assert (resumed.kept_epoch, read_kept(resumed), resumed.is_over) == (
        whole.kept_epoch,
        read_kept(whole),
        whole.is_over,
    )
    assert rest.copied == [number for number in copier.copied if number > len(first.history)]


def test_early_stopping_resumed_does_not_change_the_given_history() -> None:
    history = [make_epoch(1, 0.5)]
    record_losses(EarlyStopping(0, history, make_weights(1)), [0.5, 0.4])
    assert history == [make_epoch(1, 0.5)]


def test_early_stopping_resumed_after_divergence_is_over() -> None:
    stopping = EarlyStopping(0, [make_epoch(1, 0.5), make_epoch(2, NAN)], make_weights(1))
    assert (stopping.is_over, stopping.kept_epoch, read_kept(stopping)) == (True, 1, 1)


def test_describe_losses_rounds_to_four_digits() -> None:
    assert make_epoch(3, 0.123456, 2.0).describe_losses() == "2 (validation: 0.1235)"
    assert make_epoch(3, INF, NAN).describe_losses() == "nan (validation: inf)"
