"""Signals end a command at every moment: with the status 128 plus the number, without a traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
PROGRAM = """
import gc, signal, sys, time
from dataclasses import dataclass
from typing import Annotated
from typer import Option
from base.command_line import run_app
from base.signals import defer_interrupt

@dataclass(frozen=True)
class Config:
    mode: Annotated[str, Option(help="What to do.")]

class Finalized:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(60)

def act(config, console):
    match config.mode:
        case "work":
            print("ready", flush=True)
            time.sleep(60)
        case "clean up":
            try:
                print("ready", flush=True)
                time.sleep(60)
            finally:
                print("ready", flush=True)
                time.sleep(60)
        case "save":
            with defer_interrupt():
                print("ready", flush=True)
                while not signal.sigpending() and not config_received():
                    time.sleep(0.01)
                print("saved", flush=True)
            print("not reached", flush=True)
        case "finalizer":
            Finalized()
            time.sleep(60)
        case "library":
            try:
                print("ready", flush=True)
                time.sleep(60)
            except KeyboardInterrupt:
                raise ImportError("numpy failed to import")
        case "exit":
            import atexit
            atexit.register(lambda: (print("ready", flush=True), time.sleep(60)))
    return {}

def config_received():
    from base.signals import get_exit_status
    return get_exit_status()

run_app(act, Config, "program")
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout
    assert process.stdout.readline() == "ready\n"


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("mode", ["work", "finalizer", "library", "exit"])
def test_command_ended_by_a_signal_exits_with_its_status_and_no_traceback(mode: str, number: int) -> None:
    with start("-c", PROGRAM, "--mode", mode) as process:
        wait_until_ready(process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert errors in ("", "error: interrupted. Finished work is kept; run the same command again to continue.\n")


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("module", ["features", "typer", "train_head.config"])
def test_command_ended_by_a_signal_while_it_is_imported_exits_with_its_status(module: str, number: int) -> None:
    with start("-X", "importtime", "-m", "train_head", "--help") as process:
        assert process.stderr
        # The module is imported, and those that import it are not.
        while not (line := process.stderr.readline()).rstrip().endswith(f" {module}"):
            assert line, "the imports were traced"
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    # `--help` may have been answered in the meantime, as the pipe is read later than it is written.
    assert process.returncode in (128 + number, 0)
    assert "Traceback" not in errors


@pytest.mark.parametrize("number", SIGNALS)
def test_second_signal_ends_a_command_that_is_cleaning_up(number: int) -> None:
    with start("-c", PROGRAM, "--mode", "clean up") as process:
        wait_until_ready(process)
        process.send_signal(number)
        wait_until_ready(process)
        while process.poll() is None:
            process.send_signal(number)
            time.sleep(0.1)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors


def test_same_signal_twice_at_once_lets_a_command_clean_up() -> None:
    # As `make` and `timeout` do: to the process, and to its group.
    program = PROGRAM.replace("time.sleep(60)", "time.sleep(1.0)")
    with start("-c", program, "--mode", "clean up") as process:
        wait_until_ready(process)
        process.send_signal(signal.SIGTERM)
        wait_until_ready(process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert errors == "error: interrupted. Finished work is kept; run the same command again to continue.\n"


def test_signal_while_the_interrupt_is_deferred_comes_after_the_block() -> None:
    with start("-c", PROGRAM, "--mode", "save") as process:
        wait_until_ready(process)
        process.send_signal(signal.SIGHUP)
        output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (128 + signal.SIGHUP, "saved\n")


def test_hangup_under_nohup_does_not_end_a_command() -> None:
    program = PROGRAM.replace("time.sleep(60)", "time.sleep(0.5)")
    ignore = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    with start("-c", ignore, sys.executable, "-c", program, "--mode", "work") as process:
        wait_until_ready(process)
        process.send_signal(signal.SIGHUP)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
