"""Run commands in this process, with the arguments of the command line."""

from __future__ import annotations

import importlib
import io
import json
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from unittest import mock


@dataclass(frozen=True)
class CommandResult:
    """Exit status and output of a command."""

    status: int
    out: str
    err: str

    @cached_property
    def json(self) -> dict[str, Any]:
        """Object that `--json` printed: the only line on stdout."""
        (line,) = self.out.splitlines()
        found: dict[str, Any] = json.loads(line)
        return found

    @property
    def warnings(self) -> list[str]:
        """Warnings on stderr, without the prefix `warning: `."""
        return list_warnings(self.err)


class _Exit(BaseException):
    """Raised instead of ending the process."""


def run_command(module: str, *arguments: object) -> CommandResult:
    """Run `python -m module` in this process, without its signal handlers and its exit.

    Args:
        module: a module with `main(name)`, such as `extract.__main__` or `train_head.compare`.
        arguments: arguments of the command line.
    """
    out, err = (
        io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", newline="", write_through=True) for _ in range(2)
    )
    with ExitStack() as stack:
        for name in ("process.prepare", "streams.protect_streams"):
            stack.enter_context(mock.patch(f"base.{name}"))
        for name in ("interrupt_on_signals", "exit_on_signals"):
            stack.enter_context(mock.patch(f"base.signals.{name}"))
        exit_process = stack.enter_context(mock.patch("base.process.exit_process", side_effect=_Exit))
        stack.enter_context(mock.patch.dict("os.environ", {"COLUMNS": "500"}))
        stack.enter_context(mock.patch("base.invocation._program", []))
        stack.enter_context(mock.patch.object(sys, "argv", [module, *map(str, arguments)]))
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        stack.enter_context(suppress(_Exit))
        importlib.import_module(module).main(f"python -m {module.removesuffix('.__main__')}")
    return CommandResult(exit_process.call_args.args[0], _read(out), _read(err))


def list_warnings(err: str) -> list[str]:
    """List the warnings that a console printed on stderr."""
    lines = err.splitlines()
    return [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]


def _read(stream: io.TextIOWrapper) -> str:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()
