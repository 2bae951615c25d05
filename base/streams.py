"""Standard output and standard error of a command: write errors are recorded, not raised."""

from __future__ import annotations

import io
import select
import sys
from typing import Any, TextIO


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
    raw = _Stream(fd, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=replaced.encoding if replaced is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=is_line_buffered or raw.isatty(),
    )
