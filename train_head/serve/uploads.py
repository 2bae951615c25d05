"""Pictures of a request: read from its body within limits of size and time, and held in memory only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from base.terminal import format_bytes
from extract.config import MAX_PIXELS
from train_head.serve.errors import RequestError

MULTIPART = "multipart/form-data"
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
    max_requests: int = 64
    """Largest number of requests whose pictures are read or classified at a time."""
    max_held_bytes: int = 256_000_000
    """Largest size of the bodies of these requests together."""
    upload_s: float = 60.0
    """Longest time in which a body must arrive, in seconds."""
    pause_s: float = 10.0
    """Longest pause within a body, in seconds."""
    predict_s: float = 60.0
    """Longest time until the pictures of a request are classified, in seconds."""


class Upload(NamedTuple):
    """File of a request."""

    name: str
    """File name that the client gave; empty if it gave none."""
    data: bytes


class Admission:
    """Limits on the requests in progress, and on the bytes of their bodies together."""

    def __init__(self, limits: Limits) -> None:
        """Start without requests."""
        self._limits = limits
        self.num_requests = self._num_bytes = 0

    @contextmanager
    def admit(self) -> Iterator[Callable[[int], None]]:
        """Count a request until the end of the block, and yield a function that counts further bytes of its body.

        Raises:
            RequestError: too many requests or bytes, also from the yielded function.
        """
        held = 0

        def hold(num_bytes: int) -> None:
            nonlocal held
            if self._num_bytes + num_bytes > self._limits.max_held_bytes:
                raise _build_busy_error("the pictures of other requests fill the memory for them")
            self._num_bytes, held = self._num_bytes + num_bytes, held + num_bytes

        if self.num_requests >= self._limits.max_requests:
            raise _build_busy_error(f"{self.num_requests} requests in progress")
        self.num_requests += 1
        try:
            yield hold
        finally:
            self.num_requests, self._num_bytes = self.num_requests - 1, self._num_bytes - held


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
        return await _parse_form(request, chunks, limits)
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


class _FormParser:
    """Parser of a form that holds its files in memory."""

    def __init__(self, content_type: str, max_files: int) -> None:
        """Start a form.

        Args:
            content_type: the header with the boundary between the parts.
            max_files: largest number of parts, with or without files.

        Raises:
            FormParserError: there is no valid boundary.
        """
        self.uploads: list[Upload] = []
        self.is_complete = False
        self._max_files, self._num_parts = max_files, 0
        self._header, self._value, self._disposition = bytearray(), bytearray(), b""
        self._data = bytearray()
        callbacks: Any = {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self._data.extend(data[start:end]),
            "on_part_end": self._end_part,
            "on_end": self._end,
        }
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        self._parser = MultipartParser(boundary, callbacks)

    def write(self, chunk: bytes) -> None:
        """Parse further bytes.

        Raises:
            FormParserError: the form is damaged.
            RequestError: it has too many parts.
        """
        self._parser.write(chunk)

    def _begin_part(self) -> None:
        self._num_parts += 1
        if self._num_parts > self._max_files:
            got, advice = "more", "Send fewer pictures at a time"
            raise RequestError(413, "body", f"at most {self._max_files} pictures", got, advice)
        self._disposition = b""

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _end_part(self) -> None:
        options = parse_options_header(self._disposition)[1]
        name, data = options.get(b"filename"), bytes(self._data)
        self._data = bytearray()
        # A browser sends an empty file without a name for a field without a file. Parts without files are ignored.
        if name or (data and name is not None):
            self.uploads.append(Upload(name.decode(errors="replace"), data))

    def _end(self) -> None:
        self.is_complete = True


async def _parse_form(request: Request, chunks: AsyncIterator[bytes], limits: Limits) -> list[Upload]:
    expected, advice = f"pictures as files of a form ({MULTIPART})", "With curl, use -F file=@picture.jpg"
    try:
        parser = _FormParser(request.headers["content-type"], limits.max_files)
        async for chunk in chunks:
            parser.write(chunk)
    except FormParserError as error:
        raise RequestError(400, "body", expected, f"a damaged form ({error})", advice) from error
    if not parser.is_complete or not parser.uploads:
        got = "no file" if parser.is_complete else "an incomplete form"
        raise RequestError(400, "body", expected, got, advice)
    return parser.uploads
