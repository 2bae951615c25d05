"""Run trials in forked children, so that crashes are detected; `faults.c` injects the faults."""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

KILL, KILL_HALF_WRITTEN = -signal.SIGKILL, -1000
"""Kinds of faults: SIGKILL before a call, or after half of its bytes. Other kinds: an errno, or minus a signal."""

STOPS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Trials:
    """Runner of trials in a scratch folder, with a preloaded library that injects faults at input/output calls."""

    def __init__(self, scratch: Path, target: Path) -> None:
        """Create a runner.

        Args:
            scratch: existing folder.
            target: folder; faults are injected at calls for the files below it.
        """
        self._faults = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self.scratch, self.target = scratch, target
        self.crashes: list[str] = []
        self.violations: list[str] = []

    def arm(self, call: int, kind: int, *, is_permanent: bool = False, log: int = -1) -> None:
        """Inject a fault at the given call, or also at all later ones; with call 0, only count and log calls."""
        self._faults.torture_arm(str(self.target).encode(), ctypes.c_long(call), kind, int(is_permanent), log)

    def disarm(self) -> int:
        """Stop counting, and return the number of calls."""
        return int(self._faults.torture_disarm())

    def mark(self, number: int) -> None:
        """Write a number to the log."""
        self._faults.torture_mark(ctypes.c_long(number))

    def count_calls(self, function: Callable[[], object]) -> int:
        """Return the number of calls that a function makes without faults."""
        report = self.scratch / "calls"

        def count() -> None:
            self.arm(0, 0)
            function()
            report.write_text(str(self.disarm()))

        self.expect_success("counting", count)
        if not report.exists():
            raise AssertionError(f"counting: {self.crashes} {self.violations}")
        return int(report.read_text())

    def expect_success(self, name: str, function: Callable[[], object]) -> None:
        """Call a function in a child, and record its failure under the name of the trial."""
        status = self.fork(function)
        if status < 0:
            self.crashes.append(f"{name}: signal {-status}")
        elif status:
            error = self.scratch / "error"
            reason = error.read_text() if error.exists() else f"exit status {status}"
            self.violations.append(f"{name}: {reason}")

    def fork(
        self, function: Callable[[], object], stop_after: float | None = None, number: signal.Signals = signal.SIGKILL
    ) -> int:
        """Call a function in a child.

        Args:
            function: the function.
            stop_after: seconds until a signal is sent to the child; None sends no signal.
            number: the signal.

        Returns:
            The exit status of the child, or minus the signal that ended it.
        """
        (self.scratch / "error").unlink(missing_ok=True)
        # A signal must not arrive before the child has started.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        child = os.fork()
        if child == 0:
            self._end(function, mask)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if stop_after is not None:
            time.sleep(stop_after)
            os.kill(child, number)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _end(self, function: Callable[[], object], mask: set[int | signal.Signals]) -> NoReturn:
        """Call a function and end the process.

        If the function raises an error, the exit status is 1, and the file `error` contains a description. SystemExit
        sets the exit status. KeyboardInterrupt ends the process by SIGINT.
        """
        status = 1
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            function()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except KeyboardInterrupt:
            # An uncaught interrupt ends the process as the signal would.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        except AssertionError as error:
            self._note(str(error))
        except BaseException:
            self._note(traceback.format_exc())
        finally:
            os._exit(status)

    def _note(self, error: str) -> None:
        self.disarm()
        (self.scratch / "error").write_text(error, errors="replace")


def parse_arguments(parts: Sequence[str]) -> tuple[list[str], bool]:
    """Parse the options `--short` and `--only`.

    Returns:
        The parts to run, and whether to run the short form.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", help="run only a small part of the trials")
    parser.add_argument("--only", default="", help="parts to run, comma-separated; by default all")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else parts
    return [part for part in parts if part in wanted], options.short
