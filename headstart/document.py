"""Generate the signatures and the docstrings of the API functions from the declared options.

Errors and messages of the functions have keywords in place of the options of the command line.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import MISSING
from enum import EnumMeta, StrEnum
from functools import cache, wraps
from typing import Any, TypeVar

from base.calls import translate_options
from base.errors import HeadstartError
from base.invocation import is_command_running
from base.options import OptionSpec, describe_kind, list_options

Function = TypeVar("Function", bound=Callable[..., Any])
COMMAND_ONLY = frozenset({"dry_run", "top"})
"""Options that only the command line has, because they change what is printed on the terminal."""
WIDTH = 100
"""Largest number of characters in a line of the description of an option."""
_OPTIONS_LINE = "    **options: The options of the command."
_CHOICES = "Choices such as 'none' or 'avg' are given as plain strings."
OPTIONS: dict[str, type] = {}
"""Options dataclass of each API function, keyed by the name of the function."""


def use_keywords(text: str) -> str:
    """Translate the options of the command line in a message to keywords, unless a command runs."""
    return text if is_command_running() else translate_options(text, _list_all_options(frozenset(OPTIONS.values())))


def translated(function: Function) -> Function:
    """Return the function with keywords in the fields of its errors, in place of options of the command line."""

    @wraps(function)
    def call(*values: Any, **keywords: Any) -> Any:
        try:
            return function(*values, **keywords)
        except HeadstartError as error:
            if isinstance(error.where, str):
                error.where = use_keywords(error.where)
            error.expected, error.got, error.advice = map(use_keywords, (error.expected, error.got, error.advice))
            error.args = (error.where, error.expected, error.got, error.advice)
            raise

    return call  # type: ignore[return-value]


@cache
def _list_all_options(declared: frozenset[type]) -> Sequence[OptionSpec]:
    return [option for options in declared for option in list_options(options)]


def documented(options: type) -> Callable[[Function], Function]:
    """Return a decorator that adds the fields of an options dataclass to a function's signature and docstring."""

    def document(function: Function) -> Function:
        OPTIONS[function.__name__] = options
        signature = inspect.signature(function)
        declared = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        excluded = COMMAND_ONLY | signature.parameters.keys()
        keywords = [o for o in list_options(options) if o.name not in excluded and o.default is not MISSING]
        defaults = [str(o.default) if isinstance(o.default, StrEnum) else o.default for o in keywords]
        parameters = [
            inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=default)
            for option, default in zip(keywords, defaults, strict=True)
        ]
        function.__signature__ = signature.replace(parameters=[*declared, *parameters])  # type: ignore[attr-defined]
        lines = "\n".join(map(_describe, keywords))
        function.__doc__ = inspect.cleandoc(function.__doc__ or "").replace(_OPTIONS_LINE, f"{lines}\n\n{_CHOICES}")
        return translated(function)

    return document


def _describe(option: OptionSpec) -> str:
    text = f"{option.name}: {option.help}"
    if option.lowest is not None or isinstance(option.kind, EnumMeta):
        text += f" Expects {describe_kind(option)}."
    if option.default not in ("", None):
        text += f" Default {option.default}."
    return textwrap.fill(text, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False)
