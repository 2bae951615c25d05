"""Read picture files from disk."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from base.places.archives import MemberError
from base.places.open import read_file
from base.regular import RegularFile
from base.urls import Location, UrlPath
from extract.config import MAX_PIXELS
from extract.decoding.memory import Budget

MAX_BYTES_PER_PIXEL = 8
"""Largest accepted file size, in bytes per pixel: four uncompressed samples of 16 bits."""
ALWAYS_ALLOWED_BYTES = 2**26
"""File size up to which a file is accepted whatever `max_pixels` is, in bytes."""
LARGE_FILE_BYTES = 2**24
"""Size above which picture files count towards `LARGE_BYTES_TOGETHER`."""
LARGE_BYTES_TOGETHER = 2**26
"""Limit on the bytes of large files that all threads read and decode at a time; a larger file is processed alone."""
_large_files = Budget(LARGE_BYTES_TOGETHER)


class UndecodableImageError(Exception):
    """File that cannot be used as a picture; the message is the reason, a noun phrase."""


def read_picture(path: Location, max_pixels: int = MAX_PIXELS) -> bytes:
    """Read a whole picture file, so that its content hash and its pixels come from the same bytes.

    Raises:
        UndecodableImageError: the file is unreadable, not a regular file, larger than any picture of `max_pixels`, or
            changed during the read.
        RemoteError: a URL cannot be reached, or refuses access; no picture is at fault.
    """
    max_bytes = max(MAX_BYTES_PER_PIXEL * max_pixels, ALWAYS_ALLOWED_BYTES)
    if isinstance(path, UrlPath):
        try:
            return read_file(path, max_bytes)
        except MemberError as error:
            raise UndecodableImageError(str(error)) from error
    try:
        with RegularFile(path, follow=True) as file:
            before = file.identity
            if before.num_bytes > max_bytes:
                raise UndecodableImageError(f"a file of {before.num_bytes:,} bytes, above the limit of {max_bytes:,}")
            data = file.read(before.num_bytes + 1)
            after = file.identify()
    except OSError as error:
        raise UndecodableImageError(f"an unreadable file ({error.strerror or error})") from error
    if len(data) != before.num_bytes or after[:4] != before[:4]:
        raise UndecodableImageError("a file that changed while it was read")
    return data


def reserve_large_file(num_bytes: int) -> AbstractContextManager[None]:
    """Return a context manager that waits until other large files leave room to read and decode one of `num_bytes`."""
    return _large_files.reserve(num_bytes) if num_bytes > LARGE_FILE_BYTES else nullcontext()
