"""Server: its connections and their limits, and its end by a signal."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from base.system import END_SIGNALS
from train_head.serve.address import HostNames
from train_head.serve.app import Service, build_app

MAX_CONNECTIONS = 400
"""Largest number of open connections. Each needs a file descriptor, of which a process often has 1,024."""
REQUEST_S = 10.0
"""Longest time from the connection, or from the end of a response, to the end of the next request's headers."""

_END_S = 10
"""Longest time in which the requests in progress are answered after a signal, in seconds."""


class LimitedProtocol(H11Protocol):
    """HTTP/1.1 connection that is closed if its next request takes too long, or if there are too many."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the first request."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        self._set_timer()

    def data_received(self, data: bytes) -> None:
        """Stop the timer when all headers of a request have arrived, and start it after the response."""
        super().data_received(data)
        self._set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        super().connection_lost(exc)
        if self._timer:
            self._timer.cancel()

    def _set_timer(self) -> None:
        is_waiting = self.cycle is None or self.cycle.response_complete
        if is_waiting and not self._timer:
            self._timer = self.loop.call_later(REQUEST_S, self.transport.abort)
        elif not is_waiting and self._timer:
            self._timer.cancel()
            self._timer = None


class SignalServer(uvicorn.Server):
    """Server that answers the requests in progress after a signal, and then passes the signal on."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle the signals of `base.signals` during the block; those that are ignored stay ignored."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        received: list[int] = []

        def end(number: int, frame: FrameType | None) -> None:
            received.append(number)
            self.handle_exit(number, frame)

        handlers = {number: signal.getsignal(number) for number in END_SIGNALS}
        handled = [number for number, handler in handlers.items() if handler is not signal.SIG_IGN]
        for number in handled:
            signal.signal(number, end)
        try:
            yield
        finally:
            for number in handled:
                signal.signal(number, handlers[number])
        for each in received:
            signal.raise_signal(each)


def build_server(service: Service, names: HostNames) -> uvicorn.Server:
    """Build the server of an application; `run([listener])` runs it.

    Args:
        service: the functions that answer.
        names: the names of this server.
    """
    config = uvicorn.Config(
        build_app(service, names),
        http=LimitedProtocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        # The headers of a proxy would let a client choose its address.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_END_S,
    )
    # It logs each damaged form, which the response describes.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    return SignalServer(config)
