"""First and last steps of a command: encoding, standard streams, signals and exit."""

from __future__ import annotations

import os
import sys

from base import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def prepare() -> None:
    """Set up signals, UTF-8 and standard streams for a command; a second call changes nothing."""
    signals.exit_on_signals()
    _use_utf8()
    # Keras opens weights files by their paths, and HDF5 refuses to open a file that it cannot lock. No command needs
    # these locks: HDF5 files are written through Python's file objects, which HDF5 does not lock.
    os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")
    for fd in (0, 1, 2):
        _reopen_if_closed(fd)


def exit_process(status: int) -> NoReturn:
    """Run the exit handlers and end the process.

    The interpreter's own shutdown is skipped, because signals and threads can change the exit status during it.
    """
    import atexit

    signals.exit_on_signals()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _use_utf8() -> None:
    """Restart Python in UTF-8 mode if the locale is not UTF-8, so that every file name can be read and written."""
    if sys.getfilesystemencoding() == "utf-8" or not sys.executable:
        return
    if sys.stdout is not None:
        # The terminal keeps its own encoding.
        os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding}:backslashreplace")
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _reopen_if_closed(fd: int) -> None:
    """Open the null device at a closed standard descriptor.

    Otherwise the next file would be opened at this descriptor, and the output of libraries would be written into it.
    """
    try:
        os.fstat(fd)
    except OSError:
        # The device is opened read-only, so that writing a result fails and it is not silently lost.
        opened = os.open(os.devnull, os.O_RDONLY)
        if opened != fd:
            os.dup2(opened, fd)
            os.close(opened)
        os.set_inheritable(fd, True)
