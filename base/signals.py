"""Signals that end a command, SIGINT, SIGTERM and SIGHUP: the exit status is 128 plus the number."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager

# Nothing else is imported: until this module is loaded, a signal ends the process with a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAME_EVENT_S = 0.5
"""Make, `timeout` and a closed terminal send their signal twice, to the process and to its group."""


class _State:
    """Signals received by this process."""

    number = 0
    """First signal; 0 before it."""
    arrived_at = 0.0
    num_deferring = 0
    is_due = False
    """Whether the interrupt was deferred, or lost in code that cannot raise, and is still to be raised."""


def exit_on_signals() -> None:
    """End the process at once on a signal, as before and after the work."""
    _install(_exit)


def interrupt_on_signals() -> None:
    """Raise KeyboardInterrupt at the first signal, and end the process at once at a second."""
    sys.unraisablehook = _raise_lost_interrupt
    _install(_interrupt)


def get_exit_status() -> int:
    """Return the exit status for the signal that has arrived; 0 where none has."""
    return 128 + _State.number if _State.number else 0


@contextmanager
def defer_interrupt() -> Iterator[None]:
    """Defer the first signal until the block is done; a second one still ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.num_deferring += 1
    try:
        yield
    finally:
        _State.num_deferring -= 1
    if _State.is_due and not _State.num_deferring:
        _State.is_due = False
        raise KeyboardInterrupt


def _install(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in ENDING:
        # Ignored signals stay ignored: SIGHUP under nohup, SIGINT in a script's background jobs.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _exit(number: int, frame: FrameType | None) -> None:
    os._exit(128 + (_State.number or number))


def _interrupt(number: int, frame: FrameType | None) -> None:
    is_first = not _State.number
    if is_first:
        _State.number, _State.arrived_at, _State.is_due = number, time.monotonic(), True
    elif time.monotonic() - _State.arrived_at >= _SAME_EVENT_S:
        _exit(number, frame)
    if _State.is_due and not _State.num_deferring:
        _State.is_due = False
        raise KeyboardInterrupt


def _raise_lost_interrupt(unraisable: sys.UnraisableHookArgs) -> None:
    """Raise an interrupt again that was raised in a finalizer, where Python drops it; do not print it."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
    elif _State.number:
        _State.is_due = True
        again = threading.Timer(0.01, signal.pthread_kill, [threading.main_thread().ident, _State.number])
        again.daemon = True
        again.start()
