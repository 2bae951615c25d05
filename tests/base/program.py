"""Command for the tests of command lines and signals: `python -m tests.base.program --mode MODE`."""

from __future__ import annotations

import atexit
import errno
import os
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from typer import Option

from base import signals
from base.command_line import CommandFailed, run_app
from base.errors import HeadstartError, UsageError
from base.signals import defer_interrupt, get_exit_status
from base.terminal import Console


@dataclass(frozen=True)
class Config:
    mode: Annotated[str, Option(help="Behaviour.")]
    times: Annotated[int, Option(min=1, help="A number.")] = 2
    run: Annotated[Path, Option(help="Output file.")] = Path("work/run")
    seconds: Annotated[float, Option(help="Time to sleep.")] = 60.0
    window: Annotated[float, Option(help="Time in which a repeated signal is ignored.")] = 0.5
    preset: Annotated[str, Option(help="Preset.")] = "none"

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"many": {"times": 9}}


class Finalized:
    """Object whose finalizer sleeps."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __del__(self) -> None:
        report_and_sleep(self.seconds)


def report_and_sleep(seconds: float) -> None:
    print("ready", flush=True)
    time.sleep(seconds)


def run(config: Config, console: Console) -> Mapping[str, Any]:
    """Run the program."""
    signals._REPEAT_WINDOW_S = config.window
    console.info("information")
    console.debug("detail")
    console.warning("attention")
    fail(config.mode)
    sleep(config.mode, config.seconds)
    with console.progress("work", 3, "items") as progress:
        progress.advance(3)
    console.show_table("sums", [("times", config.times)])
    if config.mode == "write":
        # Opened without an encoding, as by a library.
        with open(config.run, "w") as file:  # noqa: PTH123
            with suppress(OSError):
                os.write(2, b"noise of a native library\n")
            file.write(str(config.run))
    return {"times": config.times, "mode": config.mode}


def fail(mode: str) -> None:
    """Raise the error of a mode, if any."""
    match mode:
        case "fail":
            raise HeadstartError("a.jpg", "a picture", "a page", "Remove it")
        case "usage":
            raise UsageError("--mode", "x", "y", "Give z")
        case "problem":
            raise CommandFailed({"ok": False})
        case "file":
            Path("/missing/file").read_bytes()
        case "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        case "copies":
            raise shutil.Error([("a.h5", "b.h5", "[Errno 28] No space left on device"), ("c", "d", "x")])
        case "memory":
            raise MemoryError
        case "bug":
            raise ValueError("7 is not 8")
        case "interrupt":
            raise KeyboardInterrupt


def sleep(mode: str, seconds: float) -> None:
    """Print `ready` and wait for a signal, if the mode requires it."""
    match mode:
        case "work":
            report_and_sleep(seconds)
        case "clean up":
            try:
                report_and_sleep(seconds)
            finally:
                report_and_sleep(seconds)
        case "save":
            with defer_interrupt():
                print("ready", flush=True)
                while not get_exit_status():
                    time.sleep(0.01)
                print("saved", flush=True)
            print("not reached", flush=True)
        case "finalizer":
            Finalized(seconds)
            time.sleep(seconds)
        case "library":
            try:
                report_and_sleep(seconds)
            except KeyboardInterrupt:
                raise ImportError("an import failed") from None
        case "exit":
            atexit.register(report_and_sleep, seconds)


def main(name: str) -> None:
    run_app(run, Config, name)


if __name__ == "__main__":
    main(Path(sys.argv[0]).stem)
