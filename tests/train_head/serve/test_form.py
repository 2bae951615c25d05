"""Forms with files."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tests.errors import raises
from tests.train_head.serve.servers import encode_form
from train_head.serve.errors import RequestError
from train_head.serve.form import Upload, parse_form

pytestmark = pytest.mark.unit
FILES = [("a.png", b"first"), ("", b""), ("b.png", b""), ("c.png", bytes(range(256)))]


async def list_chunks(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def parse(body: bytes, content_type: str, size: int, max_files: int = 9) -> list[Upload]:
    return asyncio.run(parse_form(content_type, list_chunks(body, size), max_files))


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_form_is_parsed_in_chunks_of_any_size(size: int) -> None:
    expected = [Upload(name, data) for name, data in FILES if name]
    assert parse(*encode_form(FILES), size) == expected


def test_form_ignores_fields_without_files() -> None:
    body, content_type = encode_form(FILES[:1])
    field = body.split(b"\r\n")[0] + b'\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n'
    assert parse(field + body, content_type, 100) == [Upload("a.png", b"first")]


def test_form_with_too_many_files_is_refused() -> None:
    with raises(RequestError, where="body"):
        parse(*encode_form(FILES), 100, max_files=3)


@pytest.mark.parametrize("max_files", [9, 1])
def test_form_leaves_nothing_in_memory(max_files: int) -> None:
    body, content_type = encode_form([("a.png", bytes(3_000_000))] * 2)

    async def parse_and_drop() -> None:
        with suppress(RequestError):
            await parse_form(content_type, list_chunks(body, 65_536), max_files)

    gc.disable()
    tracemalloc.start()
    try:
        asyncio.run(parse_and_drop())
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
        gc.enable()
