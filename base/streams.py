"""Standard output and standard error: write errors are recorded, not raised, and messages of libraries are hidden."""

from __future__ import annotations

import io
import os
import select
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import IO, Any, TextIO

from base import signals


class _Stream(io.FileIO):
    """Standard stream that records its first write error, and discards output that cannot be written."""

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            # A non-blocking stream returns None while its buffer is full.
            while (written := super().write(data)) is None:
                select.select([], [self], [])
            return written
        except OSError as error:
            self.error = self.error or error
            return len(data)


def protect_streams() -> None:
    """Replace stdout and stderr with streams that record write errors and escape characters that they cannot encode."""
    sys.stdout = _open(1, sys.stdout, is_line_buffered=False)
    sys.stderr = _open(2, sys.stderr, is_line_buffered=True)


def find_output_error() -> OSError | None:
    """Flush both streams; return the first error of standard output, or None if all output was written."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    raw = getattr(sys.stdout.buffer, "raw", None)
    return raw.error if isinstance(raw, _Stream) else None


def _open(fd: int, replaced: TextIO | None, *, is_line_buffered: bool) -> TextIO:
    if replaced is not None:
        replaced.flush()
        if sys.platform == "win32" and isinstance(replaced, io.TextIOWrapper) and replaced.isatty():
            # Only Python's own stream writes Unicode to the console of Windows.
            replaced.reconfigure(errors="backslashreplace", line_buffering=True)
            return replaced
    raw = _Stream(fd, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=replaced.encoding if replaced is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=is_line_buffered or raw.isatty(),
    )


@contextmanager
def hide_native_stderr() -> Iterator[None]:
    """Print what native libraries write to stderr only if the body of the `with` statement fails.

    An interrupt is deferred to the end of the body, because libraries convert it to other exceptions.
    """
    try:
        written: IO[bytes] | None = tempfile.TemporaryFile()  # noqa: SIM115
    except OSError:
        # The import must also work on a full disk.
        written = None
    with signals.defer_interrupt(), written or nullcontext():
        if written is None:
            yield
            return
        sys.stderr.flush()
        stderr, shown = os.dup(2), b""
        os.dup2(written.fileno(), 2)
        try:
            yield
        except Exception:
            written.seek(0)
            shown = written.read()
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            print(shown.decode(errors="backslashreplace"), end="", file=sys.stderr, flush=True)
