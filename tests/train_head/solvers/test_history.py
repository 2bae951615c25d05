"""Following a fit: which epoch's weights are kept, when to stop, and going on after an interruption."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from base.errors import HeadstartError, UsageError
from train_head.solvers.head import HeadWeights
from train_head.solvers.history import EarlyStopping, Epoch

NAN, INF = math.nan, math.inf


def make_epoch(number: int, val_loss: float, loss: float = 0.5) -> Epoch:
    return Epoch(number, loss, 0.75, val_loss, 0.5, 0.1)


def make_weights(number: int) -> HeadWeights:
    """Weights that hold the number of their epoch."""
    one = np.full((1, 1), number, np.float32)
    return HeadWeights(one, one[0], one, one[0])


class Taker:
    """Gives the weights of the latest epoch, and counts how often they were asked for."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def make(self, number: int) -> Callable[[], HeadWeights]:
        def take() -> HeadWeights:
            self.taken.append(number)
            return make_weights(number)

        return take


def follow(stopping: EarlyStopping, losses: Sequence[float], taker: Taker | None = None) -> EarlyStopping:
    """Record validation losses from where the fit is, until it is over."""
    taker = taker or Taker()
    for number, val_loss in enumerate(losses, 1):
        if number > len(stopping.history) and not stopping.is_over:
            stopping.record(make_epoch(number, val_loss), taker.make(number))
    return stopping


def read_kept(stopping: EarlyStopping) -> int:
    return int(stopping.require_kept(1e-4).output_bias[0])


def test_early_stopping_without_epochs_keeps_nothing_and_is_not_over() -> None:
    for patience in (0, 1):
        stopping = EarlyStopping(patience)
        assert (stopping.history, stopping.kept, stopping.kept_epoch, stopping.is_over) == ([], None, 0, False)


def test_early_stopping_without_patience_keeps_the_last_epoch_however_bad_and_never_stops() -> None:
    stopping, taker = EarlyStopping(0), Taker()
    follow(stopping, [0.1, 0.9, 0.5, 7.0, 8.0, 9.0], taker)
    assert [row.epoch for row in stopping.history] == [1, 2, 3, 4, 5, 6]
    assert (stopping.kept_epoch, read_kept(stopping), stopping.is_over) == (6, 6, False)
    assert taker.taken == [1, 2, 3, 4, 5, 6]


def test_early_stopping_with_patience_keeps_the_best_epoch_and_takes_weights_of_better_ones_only() -> None:
    stopping, taker = EarlyStopping(3), Taker()
    follow(stopping, [0.9, 0.5, 0.7, 0.4, 0.45, 0.6], taker)
    assert (stopping.kept_epoch, read_kept(stopping), stopping.is_over) == (4, 4, False)
    assert taker.taken == [1, 2, 4]
    assert len(stopping.history) == 6


@pytest.mark.parametrize(
    ("patience", "losses", "kept", "num_epochs"),
    [
        pytest.param(1, [0.5, 0.6, 0.1], 1, 2, id="one worse"),
        pytest.param(2, [0.5, 0.6, 0.4, 0.5, 0.6, 0.1], 3, 5, id="a better one begins the count anew"),
        pytest.param(3, [0.9, 0.8, 0.81, 0.82, 0.83, 0.1], 2, 5, id="three worse"),
        pytest.param(2, [0.5, 0.5, 0.5, 0.5], 1, 3, id="an equal one is no better"),
        pytest.param(2, [0.5, 0.6, 0.55, 0.1], 1, 3, id="better than the last but not than the best"),
        pytest.param(2, [0.5, 0.4, 0.3, 0.2], 4, 4, id="ever better"),
    ],
)
def test_early_stopping_stops_as_many_epochs_after_the_best_as_it_has_patience(
    patience: int, losses: list[float], kept: int, num_epochs: int
) -> None:
    stopping = follow(EarlyStopping(patience), losses)
    assert (stopping.kept_epoch, read_kept(stopping), len(stopping.history)) == (kept, kept, num_epochs)
    assert stopping.is_over == (num_epochs - kept == patience)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("where", ["loss", "val_loss"])
@pytest.mark.parametrize(("patience", "kept"), [(0, 3), (9, 2)])
def test_early_stopping_stops_at_a_loss_that_is_no_number_and_keeps_the_last_good_or_the_best(
    bad: float, where: str, patience: int, kept: int
) -> None:
    stopping, taker = EarlyStopping(patience), Taker()
    follow(stopping, [0.6, 0.4, 0.5], taker)
    assert not stopping.is_over
    losses = {"loss": 0.3, "val_loss": 0.01} | {where: bad}
    stopping.record(make_epoch(4, losses["val_loss"], losses["loss"]), taker.make(4))
    assert stopping.is_over
    assert not stopping.history[-1].is_finite
    assert (stopping.kept_epoch, read_kept(stopping)) == (kept, kept)
    assert taker.taken == ([1, 2, 3] if patience == 0 else [1, 2])


@pytest.mark.parametrize("patience", [0, 2])
def test_early_stopping_with_a_first_epoch_that_is_no_number_keeps_nothing_and_names_epoch_losses_and_rate(
    patience: int,
) -> None:
    stopping, taker = EarlyStopping(patience), Taker()
    stopping.record(make_epoch(1, NAN, 1234.5678), taker.make(1))
    assert (stopping.is_over, stopping.kept_epoch, stopping.kept, taker.taken) == (True, 0, None, [])
    with pytest.raises(HeadstartError) as raised:
        stopping.require_kept(0.025)
    assert str(raised.value) == (
        "epoch 1: expected a finite loss, got 1235 (validation: nan) at learning rate 0.025. "
        "Nothing was kept. Try a smaller --learning-rate (LEARNING_RATE=)."
    )
    assert raised.value.exit_status == 1
    assert not isinstance(raised.value, UsageError)


@pytest.mark.parametrize("patience", [0, 2, 3])
@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_early_stopping_resumed_anywhere_ends_as_one_that_was_not_interrupted(patience: int, at: int) -> None:
    losses = [0.9, 0.5, 0.6, 0.4, 0.7, 0.8, 0.41, 0.1]
    whole, taker = EarlyStopping(patience), Taker()
    follow(whole, losses, taker)
    first = follow(EarlyStopping(patience), losses[:at])
    resumed, rest = EarlyStopping(patience, tuple(first.history), first.kept), Taker()
    assert (resumed.kept_epoch, resumed.is_over) == (first.kept_epoch, first.is_over)
    follow(resumed, losses, rest)
    assert resumed.history == whole.history
    assert (resumed.kept_epoch, read_kept(resumed), resumed.is_over) == (
        whole.kept_epoch,
        read_kept(whole),
        whole.is_over,
    )
    assert rest.taken == [number for number in taker.taken if number > len(first.history)]


def test_early_stopping_resumed_leaves_the_history_that_it_was_given_alone() -> None:
    history = [make_epoch(1, 0.5)]
    follow(EarlyStopping(0, history, make_weights(1)), [0.5, 0.4])
    assert history == [make_epoch(1, 0.5)]


def test_early_stopping_resumed_after_divergence_is_still_over_and_keeps_the_good_weights() -> None:
    stopping = EarlyStopping(0, [make_epoch(1, 0.5), make_epoch(2, NAN)], make_weights(1))
    assert (stopping.is_over, stopping.kept_epoch, read_kept(stopping)) == (True, 1, 1)


def test_describe_losses_gives_both_in_four_digits() -> None:
    assert make_epoch(3, 0.123456, 2.0).describe_losses() == "2 (validation: 0.1235)"
    assert make_epoch(3, INF, NAN).describe_losses() == "nan (validation: inf)"
