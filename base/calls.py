"""Messages of the Python API: options as keywords, and commands as calls."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from enum import EnumMeta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from base.options import OptionSpec

_POSITIONAL: Mapping[str, Sequence[str]] = {
    "extract": ("--images", "--store"),
    "advise": ("--store",),
    "train": ("--store", "--run"),
    "sweep": ("--store", "--out"),
    "report": ("--run",),
    "export": ("--run", "--out"),
    "predict": ("--model", ""),
}
"""Options of each command that its function takes by position; "" is the command's positional argument."""
_NUMBER = re.compile(r"-?\d+(\.\d*)?(e-?\d+)?")
_PLACEHOLDER = re.compile(r"[A-Z][A-Z_]+")
_OPTION = re.compile(r"(?<![\w/-])(--[a-z][a-z0-9-]*)(?:([ =])(?!--)('[^']*'|[^\s`]*[^\s`.,;:)?]))?")


def format_call(command: str, pairs: Iterable[tuple[str, str]]) -> str:
    """Format a command as a call of its function; empty for a command without one.

    Args:
        command: its name.
        pairs: each option with its value, "" for a switch; the positional argument has the name "".
    """
    if command not in _POSITIONAL:
        return ""
    given = dict(pairs)
    first = []
    for flag in _POSITIONAL[command]:
        if flag not in given:
            break
        first.append(_quote(given.pop(flag)))
    rest = [_assign(flag.removeprefix("--").replace("-", "_"), value) for flag, value in given.items() if flag]
    return f"hs.{command}({', '.join([*first, *rest]) or '...'})"


def format_keywords(options: Mapping[str, object]) -> str:
    """Format options as keywords of a call, such as `dropout=0.5`."""
    return ", ".join(_assign(name, str(value)) for name, value in options.items())


def translate_options(text: str, options: Iterable[OptionSpec]) -> str:
    """Translate the options in a message of the command line to keywords.

    `--pool` becomes `pool`, `--weights FILE` becomes `weights=FILE`, and the switch `--new-store` becomes
    `new_store=True`. Commands in backticks and options that no function has are left as they are. A word after an
    option is taken as its value if the option is alone in the text or in backticks, or if the word is one of its
    choices, quoted, a placeholder, a number, a path or a list.
    """
    flags = {option.flag: option for option in options}
    if text in flags:
        return flags[text].name
    parts = re.split("(`[^`]*`)", text)
    return "".join(
        part if part[:1] == "`" and part[:3] != "`--" else _translate(part, flags, is_alone=_is_alone(part))
        for part in parts
    )


def _is_alone(text: str) -> bool:
    return text.startswith("`") or bool(re.fullmatch(r"(--[a-z0-9-]+( [^-\s]\S*)? ?)+", text))


def _translate(text: str, flags: Mapping[str, OptionSpec], *, is_alone: bool) -> str:
    def replace(match: re.Match[str]) -> str:
        flag, space, value = match.groups("")
        option = flags.get(flag)
        if option is None:
            return match[0]
        separator = "," if text[match.end() :].startswith(" --") else ""
        if option.kind is bool:
            return f"{option.name}=True{space}{value}{separator}"
        if value and (is_alone or _is_value(value, option)):
            return _assign(option.name, shlex.split(value)[0]) + separator
        return f"{option.name}{space}{value}{separator}"

    return _OPTION.sub(replace, text)


def _is_value(word: str, option: OptionSpec) -> bool:
    choices = option.kind.__members__.values() if isinstance(option.kind, EnumMeta) else ()
    has_mark = any(mark in word for mark in "'/=,…") or any(map(str.isdigit, word))
    return word in choices or has_mark or bool(_PLACEHOLDER.fullmatch(word))


def _assign(name: str, value: str) -> str:
    is_bare = _NUMBER.fullmatch(value) or _PLACEHOLDER.fullmatch(value)
    return f"{name}={value if is_bare else _quote(value) if value else True}"


def _quote(value: str) -> str:
    # Python's own quotes, unless double ones are possible.
    return f'"{value}"' if value.isprintable() and not {'"', "\\"} & set(value) else repr(value)
