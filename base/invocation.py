"""Commands in messages: lines for the shell that run in the user's folder, with the program that the user started.

In the Python API, they are calls of its functions.
"""

from __future__ import annotations

import difflib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from base.calls import format_call, format_keywords
from base.commands import COMMANDS
from base.terminal import make_printable

MAKE = "HEADSTART_MAKE"
"""Environment variable of the Makefile: `make`, with `-C` if the user is in another folder, quoted for the shell."""
_MAKE_PLACES: Mapping[str, Mapping[str, str]] = {
    "extract": {"--images": "DATA", "--store": "STORE"},
    "extract summary": {},
    "advise": {"--images": "DATA", "--store": "STORE"},
    "train": {"--images": "DATA", "--store": "STORE", "--run": "RUN"},
    "compare": {"--images": "DATA", "--store": "STORE", "--run": "COMPARE"},
    "sweep": {"--images": "DATA", "--store": "STORE", "--out": "SWEEP"},
    "report": {"--images": "DATA", "--run": "RUN"},
    "export": {"--images": "DATA", "--run": "RUN", "--out": "OUT"},
    "predict": {"--model": "OUT", "": "FILES"},
    "prune": {"": "DATA", "--confirm": "CONFIRM"},
}
"""Variable of make for each path of a command; "" is its positional argument. Commands without a target are absent."""
_MAKE_VARIABLES: Mapping[str, str] = {
    "extract": "HEADSTART_MAKE_EXTRACT",
    **dict.fromkeys(("train", "compare", "sweep"), "HEADSTART_MAKE_TRAIN"),
}
"""Environment variable of the Makefile with the variables that are options of a command."""
_MAKE_DATA = "HEADSTART_MAKE_DATA"
"""Environment variable of the Makefile with DATA; `prune` gets the folder in work/ that is named after it."""
_NUM_BESIDE = 3
"""Number of folders that `suggest_beside` lists."""

_program: list[str] = []
"""Words of the command that runs, such as `headstart train` or `python -m train_head`; empty in the Python API."""


def set_program(name: str) -> None:
    """Set the command that runs, as its help shows it."""
    _program[:] = name.split()


def is_command_running() -> bool:
    """Return whether a command runs; False in the Python API."""
    return bool(_program)


def format_command(command: str, *arguments: object, is_shared: bool = False) -> str:
    """Format a command as a line for the shell, or in the Python API as a call of its function if it has one.

    Args:
        command: its name, such as `train` or `features merge`.
        arguments: its arguments.
        is_shared: whether the line is written into a file for others, which has no absolute path of this computer.
    """
    # A path that starts with a hyphen would be taken for an option.
    prefixes = ("./" if isinstance(each, Path) and str(each).startswith("-") else "" for each in arguments)
    words = [make_printable(f"{prefix}{each}") for prefix, each in zip(prefixes, arguments, strict=True)]
    make = os.environ.get(MAKE, "")
    if make and command in _MAKE_PLACES:
        return " ".join(["make" if is_shared else make, *_list_make_words(command, words)])
    if not is_command_running() and not is_shared and (call := format_call(command, _pair(words))):
        return call
    line = join_words([*_list_program(command, is_shared=is_shared), *words])
    # Started by make from another folder: the interpreter's path and the modules are relative to this one.
    return f"cd {join_words([str(Path.cwd())])} && {line}" if make not in ("", "make") and not is_shared else line


def format_options(command: str, options: Mapping[str, object]) -> str:
    """Format options of a command, such as `--dropout 0.5`, `DROPOUT=0.5` for make, or `dropout=0.5` in the API.

    Args:
        command: its name.
        options: values of the options. The keys are their names, with underscores.
    """
    words = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    if os.environ.get(MAKE):
        return " ".join(_list_make_words(command, words)[1:])
    return join_words(words) if is_command_running() else format_keywords(options)


def suggest_beside(folder: Path, file: str, variable: str) -> str:
    """Return the end of an advice with the folders beside a missing one that have similar names; empty without them.

    Args:
        folder: the missing folder.
        file: name of the file by which the others are recognised.
        variable: variable of make for the folder.
    """
    found = {path.parent.name: path.parent for path in folder.parent.glob(f"*/{file}")}
    name = f"{variable}=" if os.environ.get(MAKE) else ""
    nearest = difflib.get_close_matches(folder.name, found, _NUM_BESIDE, cutoff=0)
    places = [name + join_words([str(found[each])]) for each in nearest]
    return f", or give one that exists: {', '.join(places)}" if places else ""


def sort_as_make(command: str, options: Iterable[str]) -> list[str]:
    """Sort options of a command as the Makefile does in the names of folders; without make, keep their order.

    Args:
        command: its name.
        options: names of the options, with underscores.
    """
    order = os.environ.get(_MAKE_VARIABLES[command], "").lower().split()
    return sorted(options, key=lambda name: order.index(name) if name in order else -1)


def join_words(words: Iterable[str]) -> str:
    """Join words to a line for the shell of this system, with quotes where they are needed."""
    return subprocess.list2cmdline(list(words)) if os.name == "nt" else shlex.join(words)


def _list_program(command: str, *, is_shared: bool) -> list[str]:
    first, *rest = command.split()
    module = [COMMANDS[first].runnable, *rest]
    if is_shared:
        return ["headstart", first, *rest] if _program[:1] == ["headstart"] else ["python", "-m", *module]
    if _program[:1] == ["headstart"]:
        return [_find_headstart(), first, *rest]
    return [_find_python(), "-m", *(["headstart", first, *rest] if _program[2:3] == ["headstart"] else module)]


def _find_headstart() -> str:
    """Return `headstart` if the shell finds the running program under this name, else the path of the program."""
    started, found = Path(sys.argv[0]), shutil.which("headstart")
    is_same = started.stem != "headstart" or not started.is_file() or (found and Path(found) == started.absolute())
    return "headstart" if is_same else _shorten(started.absolute())


def _find_python() -> str:
    """Return `python` or `python3` if the shell finds the running interpreter under this name, else its path.

    Links are not resolved: the interpreters of all environments are links to the same file.
    """
    running = Path(sys.executable).absolute()
    names = (name for name in ("python", "python3") if Path(shutil.which(name) or "").absolute() == running)
    return next(names, _shorten(running))


def _shorten(path: Path) -> str:
    """Return a path relative to the working folder if it is inside; never only a name, which is searched in PATH."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.parent != here and path.is_relative_to(here) else str(path)


def _list_make_words(command: str, words: Sequence[str]) -> list[str]:
    """List the target and the variables of make for the arguments of a command."""
    places = _MAKE_PLACES.get(command, {})
    variables = os.environ.get(_MAKE_VARIABLES.get(command, ""), "").split()
    assigned, rest = dict[str, list[str]](), list[str]()
    for name, value in _pair(words):
        variable = places.get(name) or name.removeprefix("--").replace("-", "_").upper()
        if command == "prune" and not name:
            value = os.environ.get(_MAKE_DATA, "")
        if name in places or (variable in variables and value):
            assigned.setdefault(variable, []).append(value or "yes")
        else:
            rest += [word for word in (name, value) if word]
    found = {
        variable: values[0] if len(values) == 1 and variable != "FILES" else shlex.join(values)
        for variable, values in assigned.items()
    } | ({"ARGS": shlex.join(rest)} if rest else {})
    # The shell that make runs splits FILES and ARGS, and no other variable.
    return [command.split()[-1], *(f"{name}={shlex.quote(value)}" for name, value in found.items())]


def _pair(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each option with its value; a switch has none, and a positional argument has no name."""
    is_value = False
    for word, following in pairwise([*words, "--"]):
        if is_value:
            is_value = False
            continue
        if not word.startswith("--"):
            yield "", word
        else:
            is_value = not following.startswith("--")
            yield word, following if is_value else ""
