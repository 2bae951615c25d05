"""Configuration files: values of options in `headstart.toml`, or in `[tool.headstart]` of pyproject.toml."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from base.commands import COMMANDS, import_config, list_configs
from base.errors import HeadstartError, UsageError
from base.options import OptionSpec, convert_value, list_options
from base.urls import UrlPath, parse_location

FILE, PROJECT_FILE = "headstart.toml", "pyproject.toml"
CALL_OPTIONS = frozenset(["confirm", "drop_cut", "json", "only", "quiet", "verbose"])
"""Options that a file cannot set: those of the output, and which files are removed."""
_TABLE = re.compile(rb"^\s*\[\s*tool\s*\.\s*headstart\b", re.MULTILINE)


@dataclass(frozen=True)
class Configuration:
    """Content of a configuration file."""

    path: Path
    values: Mapping[str, Any]
    """Options at the top level, and a table for each command."""


def find_configuration(folder: Path) -> Configuration | None:
    """Read the configuration file in a folder or in its nearest parent that has one; None without one.

    In one folder, headstart.toml comes before pyproject.toml. A pyproject.toml without `[tool.headstart]` is ignored.

    Raises:
        UsageError: the file is not valid TOML.
        OSError: the file cannot be read.
    """
    for parent in (folder, *folder.parents):
        path, project = parent / FILE, parent / PROJECT_FILE
        if _is_file(path):
            return Configuration(path, _parse(path, path.read_bytes()))
        if _is_file(project) and (values := _parse_project(project, project.read_bytes())) is not None:
            return Configuration(project, values)
    return None


def _parse_project(path: Path, content: bytes) -> Mapping[str, Any] | None:
    """Return `[tool.headstart]`; None without it, and for an invalid file in which no line looks like it."""
    if b"headstart" not in content:
        return None
    try:
        tools = _parse(path, content).get("tool")
    except UsageError:
        if _TABLE.search(content):
            raise
        return None
    values = tools.get("headstart") if isinstance(tools, Mapping) else None
    if values is not None and not isinstance(values, Mapping):
        raise UsageError(f"{path}: tool.headstart", "a table", repr(values), "Write [tool.headstart] above it")
    return values


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        # A parent folder without permissions.
        return False


def _parse(path: Path, content: bytes) -> Mapping[str, Any]:
    try:
        # Editors on Windows may write a byte order mark, which TOML does not allow.
        return tomllib.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UsageError(path, "a TOML file", str(error), "Correct the file") from error


def read_defaults(configuration: Configuration, command: str, options: type) -> dict[str, Any]:
    """Return the value of each option that the file sets for a command, as the command line accepts it.

    All tables are checked, also those of other commands.

    Args:
        configuration: the file.
        command: name of the command, such as `train` or `features check`.
        options: dataclass of its options.

    Raises:
        UsageError: an unknown table or option, or an invalid value.
    """
    chosen = dict[str, Any]()
    # The top level comes first, so that the command's own table replaces its values.
    for table, values in _list_tables(configuration):
        declared = options if table in ("", command) else import_config(dict(list_configs())[table])
        found = {
            option.name: (option, values[key], f"{configuration.path}: {_join(table, key)}")
            for key, option in _check_names(values, _list_named(declared), configuration, table).items()
        }
        if table in ("", command):
            chosen |= found
        else:
            _convert_all(found, configuration)
    return _convert_all(chosen, configuration)


def _convert_all(values: Mapping[str, tuple[OptionSpec, Any, str]], configuration: Configuration) -> dict[str, Any]:
    folder = configuration.path.parent
    return {name: _convert(option, value, where, folder) for name, (option, value, where) in values.items()}


def _list_tables(configuration: Configuration) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the command and the options of each table; of the top level, an empty name.

    Raises:
        UsageError: a table has the name of no command, or a command has no table.
    """
    names = {"": None} | dict(list_configs())
    pending: list[tuple[str, Any]] = [("", configuration.values)]
    while pending:
        table, values = pending.pop(0)
        if not isinstance(values, Mapping):
            raise UsageError(f"{configuration.path}: {table}", "a table", repr(values), f"Write [{table}] above it")
        parts = _list_parts(table)
        pending += [(f"{table} {key}".strip(), values[key]) for key in values if key in parts]
        own = {key: value for key, value in values.items() if key not in parts}
        if table in names:
            yield table, own
        elif own:
            key = next(iter(own))
            advice = _suggest(key, parts, "Move it to the top level, or into the table of a subcommand")
            where = f"{configuration.path}: {_join(table, key)}"
            raise UsageError(where, f"a table such as [{table}.{next(iter(parts))}]", "another name", advice)


def _list_parts(table: str) -> Mapping[str, Any]:
    """Return the commands that have tables in a table: all in the top level, and subcommands in that of a command."""
    return COMMANDS if not table else COMMANDS[table].subcommands if table in COMMANDS else {}


def _check_names(
    values: Mapping[str, Any], options: Mapping[str, OptionSpec], configuration: Configuration, table: str
) -> dict[str, OptionSpec]:
    """Return the options of a table by key; at the top level, only those that the command has.

    Raises:
        UsageError: a key is no option of the table's command, or at the top level of no command.
    """
    found, by_name = dict[str, OptionSpec](), dict[str, str]()
    for key in values:
        name, where = key.replace("-", "_"), f"{configuration.path}: {_join(table, key)}"
        if name in by_name:
            raise UsageError(where, f"one value of {name}", f"also {by_name[name]}", "Remove one of them")
        by_name[name] = key
        if name in CALL_OPTIONS:
            advice = f"Remove it, and give --{name.replace('_', '-')} on the command line"
            raise UsageError(where, "an option that a file can set", "an option of one call", advice)
        option = own = options.get(name)
        if not table and (own is None or own.is_argument):
            option = _list_all().get(name)
        expected = f"an option of {table or 'a command'}"
        if option is None:
            advice = _suggest(key, [*(options if table else _list_all()), *_list_parts(table)], "Remove it")
            if not table and key == "tool":
                advice = "Write [train] instead of [tool.headstart.train], which is for pyproject.toml"
            raise UsageError(where, expected, "an unknown name", advice)
        if option.is_argument:
            raise UsageError(where, expected, "a positional argument", "Remove it, and give it on the command line")
        if option is own:
            found[key] = option
    return found


@cache
def _list_all() -> dict[str, OptionSpec]:
    """List the options of all commands by name; of several with one name, one that is no positional argument."""
    options = [each for _, place in list_configs() for each in _list_named(import_config(place)).items()]
    return dict(sorted(options, key=lambda each: not each[1].is_argument))


def _list_named(options: type) -> dict[str, OptionSpec]:
    """List options by the name that they have on the command line, with underscores."""
    return {option.flag.removeprefix("--").replace("-", "_"): option for option in list_options(options)}


def _convert(option: OptionSpec, value: Any, where: str, folder: Path) -> Any:
    """Convert a value of a file in a folder to one of the command line."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (option.kind is str or option.parser):
        value = str(value)
    try:
        if option.parser and isinstance(value, str):
            option.parser(value)
            return value
        # TOML has no value for None.
        converted = convert_value(option._replace(is_optional=False), value)
        is_list = isinstance(converted, list)
        return [_locate(option, each, folder) for each in converted] if is_list else _locate(option, converted, folder)
    except HeadstartError as error:
        raise UsageError(where, error.expected, error.got, error.advice) from error
    except RuntimeError as error:
        # Raised by `Path.expanduser`.
        got = f"{value!r} without a home folder of this name"
        raise UsageError(where, "a path", got, "Give the whole path") from error


def _locate(option: OptionSpec, value: Any, folder: Path) -> Any:
    """Return a value as the command line accepts it; a relative path becomes relative to the folder of the file.

    Text is a path if the placeholder of the option contains FILE or DIR. If the placeholder also contains NAME, text
    with neither a slash nor an extension is a name.
    """
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, UrlPath):
        return value.full
    is_path = isinstance(value, Path)
    if isinstance(value, str) and ("FILE" in option.metavar or "DIR" in option.metavar):
        is_file = "NAME" not in option.metavar or Path(value).name != value or bool(Path(value).suffix)
        is_path = bool(value) and is_file and not isinstance(parse_location(value), UrlPath)
    if not is_path:
        return value
    path = Path(value).expanduser()
    return str(path if folder == Path.cwd() else folder / path)


def _join(table: str, key: str) -> str:
    return ".".join([*table.split(), key])


def _suggest(name: str, known: Iterable[str], otherwise: str) -> str:
    nearest = difflib.get_close_matches(name.replace("-", "_"), list(known), 1)
    return f"Did you mean {nearest[0]}?" if nearest else otherwise
