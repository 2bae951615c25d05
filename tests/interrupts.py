"""Handle SIGINT in this process as a command does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from base import signals


@contextmanager
def handle_interrupts() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt in the block, outside of `defer_interrupt`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signals._State, "number", 0)
        handler = signal.signal(signal.SIGINT, signals._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, handler)
