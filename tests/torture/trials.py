"""Trials of a torture: each acts in a forked child, so that a crash is seen as one, and faults come from `faults.c`."""

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
"""Kinds of faults beside an errno and minus a signal: SIGKILL before a call, and with half of its bytes written."""

STOPS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Trials:
    """A scratch folder, and the preloaded library that counts, fails and kills at the calls below a folder in it."""

    def __init__(self, scratch: Path, target: Path) -> None:
        """Make the trials.

        Args:
            scratch: an existing folder.
            target: the folder whose calls are counted.
        """
        self._faults = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self.scratch, self.target = scratch, target
        self.signal_deaths: list[str] = []
        self.broken_promises: list[str] = []

    def arm(self, call: int, kind: int, *, from_then_on: bool = False, log: int = -1) -> None:
        """Let the call of that number fail, or all from it on; 0 counts and logs alone."""
        self._faults.torture_arm(str(self.target).encode(), ctypes.c_long(call), kind, int(from_then_on), log)

    def disarm(self) -> int:
        """Count no more; return how many calls there were."""
        return int(self._faults.torture_disarm())

    def mark(self, number: int) -> None:
        """Write a number into the log."""
        self._faults.torture_mark(ctypes.c_long(number))

    def count_calls(self, act: Callable[[], object]) -> int:
        """Count the calls of an act that is left alone."""
        report = self.scratch / "calls"

        def count() -> None:
            self.arm(0, 0)
            act()
            report.write_text(str(self.disarm()))

        self.expect_success("counting", count)
        if not report.exists():
            raise AssertionError(f"counting: {self.signal_deaths} {self.broken_promises}")
        return int(report.read_text())

    def expect_success(self, name: str, act: Callable[[], object]) -> None:
        """Act in a child, and note under a name what went wrong."""
        status = self.fork(act)
        if status < 0:
            self.signal_deaths.append(f"{name}: signal {-status}")
        elif status:
            error = self.scratch / "error"
            what = error.read_text() if error.exists() else f"exit status {status}"
            self.broken_promises.append(f"{name}: {what}")

    def fork(
        self, act: Callable[[], object], stop_after: float | None = None, number: signal.Signals = signal.SIGKILL
    ) -> int:
        """Act in a child.

        Args:
            act: what to do.
            stop_after: seconds until the child gets a signal; None sends none.
            number: the signal.

        Returns:
            The child's exit status, or minus the signal that ended it.
        """
        (self.scratch / "error").unlink(missing_ok=True)
        # A signal must not come before the child is itself.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        child = os.fork()
        if child == 0:
            self._end(act, mask)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if stop_after is not None:
            time.sleep(stop_after)
            os.kill(child, number)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _end(self, act: Callable[[], object], mask: set[int | signal.Signals]) -> NoReturn:
        """Act, and end the process, with exit status 1 and a file that describes the error where there is one."""
        status = 1
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            act()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except KeyboardInterrupt:
            # What the act does not catch ends it as the system would.
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
    """Read which of some parts to run, and whether in the short form, from the command line.

    Returns:
        The parts, none where others alone are asked for; and whether the form is short.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", help="a small part of the trials")
    parser.add_argument("--only", default="", help="parts to run, comma-separated; all without it")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else parts
    return [part for part in parts if part in wanted], options.short
