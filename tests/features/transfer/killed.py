"""Command that dies in its NUMBERth write: `python -m tests.features.transfer.killed NUMBER push|pull ...`."""

from __future__ import annotations

import os
import signal
import sys
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO
from unittest import mock

from base.remote import Connection
from features.__main__ import main
from features.transfer import objects

NUMBER = int(sys.argv.pop(1))
_calls = count(1)


def write_or_die(file: BinaryIO, chunk: bytes, path: Path) -> None:
    """Write a chunk, or the first half of it."""
    if chunk and next(_calls) == NUMBER:
        file.write(chunk[: len(chunk) // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    _write(file, chunk, path)


def upload_or_die(place: Connection, data: bytes, **options: Any) -> None:
    """Upload a file, or die before."""
    if next(_calls) == NUMBER:
        os.kill(os.getpid(), signal.SIGKILL)
    _upload(place, data, **options)


_write, _upload = objects._write, objects.upload
if __name__ == "__main__":
    # One file at a time, so that the earlier ones are complete.
    with mock.patch.multiple(objects, _write=write_or_die, upload=upload_or_die, NUM_TRANSFERS=1):
        main("python -m features")
