"""Handle the signals that end a command: its exit status is 128 plus the number of the signal."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager

from base import system

# Few imports: a signal that arrives before this module is loaded ends the process with a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_REPEAT_WINDOW_S = 0.5
"""Time in which a repeated signal is ignored: make, `timeout` and a closed terminal send a signal twice, to the process
and to its group."""
_REPEAT_INTERVAL_S = 0.01
"""Time between two attempts to raise a lost interrupt."""


class _State:
    """State of signal handling in this process."""

    number = 0
    """Number of the first signal received; 0 before one arrives."""
    received_at = 0.0
    num_deferring = 0
    """Number of nested `defer_interrupt` blocks."""
    is_pending = False
    """Whether KeyboardInterrupt must still be raised for the first signal."""


def exit_on_signals() -> None:
    """End the process immediately on a signal; used before and after the work of a command."""
    _install(_exit)


def interrupt_on_signals() -> None:
    """Raise KeyboardInterrupt on the first signal, and end the process immediately on the second."""
    sys.unraisablehook = _raise_lost_interrupt
    _install(_interrupt)


def get_exit_status() -> int:
    """Return the exit status for the received signal, or 0 if there was none."""
    return 128 + _State.number if _State.number else 0


@contextmanager
def defer_interrupt() -> Iterator[None]:
    """Defer the interrupt of the first signal to the end of the block; a second signal ends the process immediately."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.num_deferring += 1
    try:
        yield
    finally:
        _State.num_deferring -= 1
    if _State.is_pending and not _State.num_deferring:
        _State.is_pending = False
        raise KeyboardInterrupt


def _install(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in system.END_SIGNALS:
        # Ignored signals stay ignored, such as SIGHUP under nohup and SIGINT in background jobs of a script.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _exit(number: int, frame: FrameType | None) -> None:
    os._exit(128 + (_State.number or number))


def _interrupt(number: int, frame: FrameType | None) -> None:
    is_first = not _State.number
    if is_first:
        _State.number, _State.received_at, _State.is_pending = number, time.monotonic(), True
    elif time.monotonic() - _State.received_at >= _REPEAT_WINDOW_S:
        _exit(number, frame)
    if _State.is_pending and not _State.num_deferring:
        _State.is_pending = False
        raise KeyboardInterrupt


def _raise_lost_interrupt(unraisable: sys.UnraisableHookArgs) -> None:
    """Send the signal again if its interrupt was raised in a finalizer, where Python discards exceptions."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
    elif _State.number:
        # An interrupt that is raised in this function would be lost too.
        _State.num_deferring += 1
        _State.is_pending = True
        threading.Thread(target=_repeat_pending, daemon=True).start()
        _State.num_deferring -= 1


def _repeat_pending() -> None:
    """Send the signal again until its interrupt is raised; the end of a deferring block raises it without this."""
    while _State.is_pending:
        if not _State.num_deferring:
            # The main thread would take it for a second signal of the user, and end the process.
            _State.received_at = time.monotonic()
            system.repeat_signal(_State.number)
        time.sleep(_REPEAT_INTERVAL_S)
