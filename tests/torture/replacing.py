"""Command that only replaces a target: `python -m tests.torture.replacing KIND TEXT PATH`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from typer import Argument

from base import replace
from base.command_line import run_app
from base.errors import HeadstartError
from base.files import atomic_file
from base.replace import hold_target, recover_target, replace_folder
from base.target import Names, Target
from base.terminal import Console

NAMES: Names = {"a.txt": None, "b.txt": None, "inside": {"c.txt": None}}
MARK = "written by the torture test: "
ARCHIVE = "kept"


class Kind(StrEnum):
    """Kind of replacement."""

    EXCHANGE = "exchange"
    TWO_STEPS = "two-steps"
    """Two renames, as on a system without RENAME_EXCHANGE."""
    ARCHIVE = "archive"
    FILE = "file"


@dataclass(frozen=True)
class ReplaceConfig:
    """Options of the command."""

    kind: Annotated[Kind, Argument()]
    text: Annotated[str, Argument()]
    path: Annotated[Path, Argument()]


def make_target(folder: Path) -> Target:
    """Return the target of a folder."""
    return Target(folder, NAMES, _check_folder, "FOLDER")


def run(config: ReplaceConfig, console: Console) -> Mapping[str, Any]:
    """Replace a folder or a file."""
    if config.kind is Kind.TWO_STEPS:
        replace.__dict__["exchange"] = lambda first, second: False
    if config.kind is Kind.FILE:
        with hold_target(make_target(config.path)), atomic_file(config.path) as file:
            file.write(_compose(config.text))
        return {}
    with replace_folder(make_target(config.path)) as replacement:
        for name in ("a.txt", "inside/c.txt") if config.text == "new" else ("a.txt", "b.txt", "inside/c.txt"):
            _write(replacement.staging / name, config.text)
        replacement.commit(ARCHIVE if config.kind is Kind.ARCHIVE else "")
    return {}


def inspect_target(path: Path) -> set[str]:
    """Complete an interrupted replacement as a reader does, and return the texts of all files except the user's."""
    recover_target(make_target(path))
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {text.split()[-1] for file in files if (text := file.read_text()).startswith(MARK)}


def _check_folder(folder: Path) -> None:
    if (folder / "a.txt").exists():
        _check_file(folder / "a.txt")


def _check_file(path: Path) -> None:
    if not path.read_text().startswith(MARK):
        raise HeadstartError(path, "a file of the torture test", "another", "Move it")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(_compose(text))


def _compose(text: str) -> bytes:
    return f"{MARK}{'-' * 20_000} {text}".encode()


if __name__ == "__main__":
    run_app(run, ReplaceConfig, "replacing")
