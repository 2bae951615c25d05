"""At any moment a signal ends a command with status 128 plus its number, and without a traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.systems import HANG_S, needs_posix

ROOT = Path(__file__).parents[2]
# Windows ends a process at once where other systems send a signal.
pytestmark = needs_posix
SIGNALS = [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
PROGRAM = ("-m", "tests.base.program", "-q", "--mode")


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout
    assert process.stdout.readline() == "ready\n"


def count_error_lines(errors: str) -> int:
    """Count the messages of an interrupt; any other output than messages is a failure."""
    lines = errors.splitlines()
    assert all(line.startswith(("warning: ", "error: ")) for line in lines), errors
    return sum(line.startswith("error: interrupted") for line in lines)


@pytest.mark.parametrize(
    ("mode", "number"),
    [
        *(("work", number) for number in SIGNALS),
        *((mode, signal.SIGTERM) for mode in ("finalizer", "library", "exit")),
    ],
)
def test_signal_ends_a_command_with_its_status(mode: str, number: int) -> None:
    with start(*PROGRAM, mode) as process:
        wait_until_ready(process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 128 + number
    assert count_error_lines(errors) == (0 if mode == "exit" else 1)


def test_signal_in_a_finalizer_is_not_lost_if_the_process_is_slow() -> None:
    code = """import runpy, threading, time
start = threading.Thread.start
threading.Thread.start = lambda thread: (start(thread), time.sleep(0.3))
runpy.run_module("tests.base.program", run_name="__main__", alter_sys=True)
"""
    with start("-c", code, *PROGRAM[2:], "finalizer") as process:
        wait_until_ready(process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert count_error_lines(errors) == 1


@pytest.mark.parametrize(
    ("module", "number"), [("features", signal.SIGINT), ("typer", signal.SIGTERM), ("train_head.config", SIGNALS[-1])]
)
def test_signal_during_the_imports_ends_a_command_with_its_status(module: str, number: int) -> None:
    with start("-X", "importtime", "-m", "train_head", "--help") as process:
        assert process.stderr
        # The module is imported, but not yet those that import it.
        while not (line := process.stderr.readline()).rstrip().endswith(f" {module}"):
            assert line, f"{module} was not imported"
        process.send_signal(number)
        _, errors = process.communicate(timeout=HANG_S)
    # Python may have finished `--help` before this process read the line.
    assert process.returncode in (128 + number, 0)
    assert "Traceback" not in errors


def test_second_signal_ends_a_command_during_cleanup() -> None:
    number = signal.SIGINT
    with start(*PROGRAM, "clean up") as process:
        wait_until_ready(process)
        process.send_signal(number)
        wait_until_ready(process)
        while process.poll() is None:
            process.send_signal(number)
            time.sleep(0.1)
        _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 128 + number
    assert count_error_lines(errors) == 0


def test_repeated_signal_of_one_event_lets_a_command_clean_up() -> None:
    # Make and `timeout` send a signal to the process and to its group.
    with start(*PROGRAM, "clean up", "--seconds", "0.8", "--window", str(HANG_S)) as process:
        wait_until_ready(process)
        process.send_signal(signal.SIGTERM)
        wait_until_ready(process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert count_error_lines(errors) == 1


def test_deferred_signal_is_handled_after_the_block() -> None:
    with start(*PROGRAM, "save") as process:
        wait_until_ready(process)
        process.send_signal(signal.SIGHUP)
        output, _ = process.communicate(timeout=HANG_S)
    assert (process.returncode, output) == (128 + signal.SIGHUP, "saved\n")


def test_ignored_hangup_does_not_end_a_command() -> None:
    # As under nohup.
    ignore = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    with start("-c", ignore, sys.executable, *PROGRAM, "work", "--seconds", "0.3") as process:
        wait_until_ready(process)
        process.send_signal(signal.SIGHUP)
        _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 0
    assert count_error_lines(errors) == 0
