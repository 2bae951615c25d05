"""Forms with files, parsed while they arrive, and held in memory only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple, cast

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from train_head.serve.errors import RequestError

MULTIPART = "multipart/form-data"


class Upload(NamedTuple):
    """File of a request."""

    name: str
    """File name that the client gave; empty if it gave none."""
    data: bytes


class _Form:
    """Files of a form, filled by the callbacks of a parser.

    It does not refer to the parser: a cycle would keep the files in memory until the next garbage collection.
    """

    def __init__(self, max_parts: int) -> None:
        """Start without files; `max_parts` is the largest number of parts, with or without files."""
        self.uploads: list[Upload] = []
        self.is_complete = False
        self._max_parts, self._num_parts = max_parts, 0
        self._header, self._value, self._disposition = b"", b"", b""
        self._pieces: list[bytes] = []

    def list_callbacks(self) -> dict[str, Callable[..., None]]:
        """Return the callbacks of a `MultipartParser`."""
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_header,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_part_data": self._add_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        self._num_parts += 1
        if self._num_parts > self._max_parts:
            got, advice = "more", "Send fewer pictures at a time"
            raise RequestError(413, "body", f"at most {self._max_parts} pictures", got, advice)
        self._disposition = b""

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append(data[start:end])

    def _end_part(self) -> None:
        name = parse_options_header(self._disposition)[1].get(b"filename")
        data, self._pieces = b"".join(self._pieces), []
        # A browser sends an empty file without a name for a field without a file. Parts without files are ignored.
        if name or (data and name is not None):
            self.uploads.append(Upload(name.decode(errors="replace"), data))

    def _end(self) -> None:
        self.is_complete = True


async def parse_form(content_type: str, chunks: AsyncIterator[bytes], max_files: int) -> list[Upload]:
    """Parse the body of a form, and return its files.

    Args:
        content_type: the header with the boundary between the parts.
        chunks: the body.
        max_files: largest number of files.

    Raises:
        RequestError: the form is damaged, incomplete, or has no file or too many.
    """
    expected, advice = f"pictures as files of a form ({MULTIPART})", "With curl, use -F file=@picture.jpg"
    form = _Form(max_files)
    try:
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        parser = MultipartParser(boundary, cast(Any, form.list_callbacks()))
        async for chunk in chunks:
            parser.write(chunk)
    except FormParserError as error:
        raise RequestError(400, "body", expected, f"a damaged form ({error})", advice) from error
    if not form.is_complete or not form.uploads:
        got = "no file" if form.is_complete else "an incomplete form"
        raise RequestError(400, "body", expected, got, advice)
    return form.uploads
