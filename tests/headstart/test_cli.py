"""The `headstart` command: it finds the command of each stage, prints its help, and refuses unknown commands."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

import pytest

from base import process
from base.commands import COMMANDS
from headstart import cli
from tests.commands import CommandResult, run_command

pytestmark = pytest.mark.unit


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., CommandResult]:
    """Function that runs `headstart` with arguments in this process."""
    main = cli.main
    monkeypatch.setattr(cli, "main", lambda _: main())
    return lambda *arguments: run_command("headstart.cli", *arguments)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_help_shows_the_full_name(command: str, run: Callable[..., CommandResult]) -> None:
    result = run(command, "--help")
    assert (result.status, result.err) == (0, "")
    assert f"headstart {command}" in result.out


def test_command_receives_its_name_and_arguments(
    run: Callable[..., CommandResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[object] = []

    def main(name: str) -> None:
        received.extend([name, sys.argv[1:]])
        process.exit_process(7)

    monkeypatch.setattr(importlib.import_module("train_head.__main__"), "main", main)
    assert run("train", "--epochs", 3).status == 7
    assert received == ["headstart train", ["--epochs", "3"]]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_all_commands(arguments: list[str], run: Callable[..., CommandResult]) -> None:
    result = run(*arguments)
    assert (result.status, result.err) == (0, "")
    shown = [line.split()[0] for line in result.out.splitlines() if line.startswith("  ") and line.strip()]
    assert [word for word in shown if word in COMMANDS] == list(COMMANDS)


@pytest.mark.parametrize(("name", "nearest"), [("trian", "train"), ("exprot", "export"), ("qqq", "headstart --help")])
def test_unknown_command_is_an_error_with_the_nearest_name(
    name: str, nearest: str, run: Callable[..., CommandResult]
) -> None:
    result = run(name, "--help")
    assert (result.status, result.out) == (2, "")
    (line,) = result.err.splitlines()
    assert repr(name) in line
    assert nearest in line
