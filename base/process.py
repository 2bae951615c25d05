"""First and last steps of a command: encodings, standard streams, signals, and the exit."""

from __future__ import annotations

import os
import sys

from base import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def start() -> None:
    """Prepare the process of a command; may be called twice."""
    signals.exit_on_signals()
    _use_utf8()
    for fd in (0, 1, 2):
        _open_where_closed(fd)


def leave(status: int) -> NoReturn:
    """End the process without the interpreter's own shutdown, where signals and threads may change the status."""
    import atexit

    signals.exit_on_signals()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _use_utf8() -> None:
    """Start Python again in its UTF-8 mode where the locale is not UTF-8: file names may hold anything."""
    if sys.getfilesystemencoding() == "utf-8" or not sys.executable:
        return
    if sys.stdout is not None:
        # The terminal keeps its own encoding.
        os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding}:backslashreplace")
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _open_where_closed(fd: int) -> None:
    """Reserve a closed standard stream's number, so that no file gets it: libraries write to 1 and 2."""
    try:
        os.fstat(fd)
    except OSError:
        # Read-only: what is written there fails, so that a lost result is noticed.
        opened = os.open(os.devnull, os.O_RDONLY)
        if opened != fd:
            os.dup2(opened, fd)
            os.close(opened)
        os.set_inheritable(fd, True)
