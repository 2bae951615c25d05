"""Generate the signatures and the docstrings of the API functions from the declared options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING
from typing import Any, TypeVar

from base.options import OptionSpec, describe_kind, list_options

Function = TypeVar("Function", bound=Callable[..., Any])
COMMAND_ONLY = frozenset({"dry_run", "top"})
"""Options that only the command line has, because they change what is printed on the terminal."""
_OPTIONS_LINE = "    **options: The options of the command."
OPTIONS: dict[str, type] = {}
"""Options dataclass of each API function, keyed by the name of the function."""


def documented(options: type) -> Callable[[Function], Function]:
    """Return a decorator that adds the fields of an options dataclass to a function's signature and docstring."""

    def document(function: Function) -> Function:
        OPTIONS[function.__name__] = options
        signature = inspect.signature(function)
        declared = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        excluded = COMMAND_ONLY | signature.parameters.keys()
        keywords = [o for o in list_options(options) if o.name not in excluded and o.default is not MISSING]
        parameters = [inspect.Parameter(o.name, inspect.Parameter.KEYWORD_ONLY, default=o.default) for o in keywords]
        function.__signature__ = signature.replace(parameters=[*declared, *parameters])  # type: ignore[attr-defined]
        lines = "\n".join(map(_describe, keywords))
        function.__doc__ = inspect.cleandoc(function.__doc__ or "").replace(_OPTIONS_LINE, lines)
        return function

    return document


def _describe(option: OptionSpec) -> str:
    text = f"    {option.name}: {option.help}"
    if option.lowest is not None:
        text += f" Expects {describe_kind(option)}."
    return text if option.default in ("", None) else f"{text} Default {option.default}."
