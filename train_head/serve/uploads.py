"""Pictures of a request: read from its body within limits of size and time, and held in memory only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.requests import Request

from base.terminal import format_bytes
from extract.config import MAX_PIXELS
from train_head.serve.config import ServeConfig
from train_head.serve.errors import RequestError
from train_head.serve.form import MULTIPART, Upload, parse_form

_RAW_TYPES = ("", "application/octet-stream")


@dataclass(frozen=True)
class Limits:
    """Limits on requests."""

    max_pixels: int = MAX_PIXELS
    """Largest number of pixels of a picture."""
    max_bytes: int = 32_000_000
    """Largest size of a request's body."""
    max_files: int = 32
    """Largest number of pictures in a request."""
    max_requests: int = 128
    """Largest number of requests whose pictures are classified at a time."""
    max_held_bytes: int = 128_000_000
    """Largest size of the bodies of all requests together."""
    upload_s: float = 60.0
    """Longest time in which a body must arrive, in seconds."""
    pause_s: float = 10.0
    """Longest pause within a body, in seconds."""
    predict_s: float = 60.0
    """Longest time until the pictures of a request are classified, in seconds."""


def choose_limits(config: ServeConfig) -> Limits:
    """Return the limits that the options set; one request of the largest size is always within that of all together."""
    max_bytes = config.max_upload * 1_000_000
    return Limits(config.max_pixels, max_bytes, max_held_bytes=max(Limits.max_held_bytes, max_bytes))


class Admission:
    """Limits on the requests whose pictures are classified, and on the bytes of all bodies together."""

    def __init__(self, limits: Limits) -> None:
        """Start without requests."""
        self._limits = limits
        self.num_requests = self._num_bytes = 0

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count a request until the end of the block.

        Raises:
            RequestError: too many requests.
        """
        if self.num_requests >= self._limits.max_requests:
            raise _build_busy_error(f"{self.num_requests} requests in progress")
        self.num_requests += 1
        try:
            yield
        finally:
            self.num_requests -= 1

    @contextmanager
    def hold_bytes(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that counts bytes of a body until the end of the block.

        The function raises RequestError if there are too many.
        """
        held = 0

        def hold(num_bytes: int) -> None:
            nonlocal held
            if self._num_bytes + num_bytes > self._limits.max_held_bytes:
                raise _build_busy_error("the pictures of other requests fill the memory for them")
            self._num_bytes, held = self._num_bytes + num_bytes, held + num_bytes

        try:
            yield hold
        finally:
            self._num_bytes -= held


def _build_busy_error(got: str) -> RequestError:
    return RequestError(503, "server", "fewer requests at a time", got, "Try again later")


async def read_uploads(request: Request, limits: Limits, hold: Callable[[int], None]) -> list[Upload]:
    """Read the files of a request: those of a form, or the body as one file.

    Args:
        request: the request.
        limits: limits on it.
        hold: called with the number of bytes of each piece.

    Raises:
        RequestError: a body that is too large or too slow, or that is neither a picture nor a form with files.
        ClientDisconnect: the client closed the connection.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != MULTIPART and content_type not in _RAW_TYPES and not content_type.startswith("image/"):
        expected = f"{MULTIPART}, image/… or application/octet-stream"
        advice = "With curl, use -F file=@picture.jpg"
        raise RequestError(415, "Content-Type", expected, repr(content_type), advice)
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > limits.max_bytes:
        raise _build_size_error(limits)
    chunks = _read_chunks(request, limits, hold)
    if content_type == MULTIPART:
        return await parse_form(request.headers["content-type"], chunks, limits.max_files)
    return [Upload("", b"".join([chunk async for chunk in chunks]))]


async def _read_chunks(request: Request, limits: Limits, hold: Callable[[int], None]) -> AsyncIterator[bytes]:
    stream, num_bytes = request.stream(), 0
    clock = asyncio.get_running_loop().time
    deadline = clock() + limits.upload_s
    while True:
        try:
            async with asyncio.timeout_at(min(deadline, clock() + limits.pause_s)):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            expected = f"a body within {limits.upload_s:g} s, without pauses of {limits.pause_s:g} s"
            advice = "Use a faster connection or smaller pictures"
            raise RequestError(408, "body", expected, f"{num_bytes:,} bytes", advice) from error
        num_bytes += len(chunk)
        if num_bytes > limits.max_bytes:
            raise _build_size_error(limits)
        hold(len(chunk))
        yield chunk


def _build_size_error(limits: Limits) -> RequestError:
    expected = f"at most {format_bytes(limits.max_bytes)}"
    advice = "Send fewer or smaller pictures, or start the server with a larger --max-upload"
    return RequestError(413, "body", expected, "more", advice)
