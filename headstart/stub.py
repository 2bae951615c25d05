"""Writes `__init__.pyi`: the Python API with every option spelled out, for type checkers and editors.

The options are declared once, in the dataclasses that the command line is made from too: `python -m headstart.stub`
writes the file again after one of them changed, and a test compares it.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from dataclasses import MISSING, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_origin

from base.options import OptionSpec, list_options
from headstart import api
from headstart.document import OPTIONS
from train_head.config import HeadConfig

FILE = Path(__file__).with_name("__init__.pyi")
_HEADER = '''"""Headstart: extract features once, retrain heads in seconds. Written by `python -m headstart.stub`."""

import os
from collections.abc import Iterable, Sequence
from typing import Literal

from base import errors as errors
from base.errors import HeadstartError as HeadstartError
from base.terminal import ProgressCallback
from features.store import FeatureStore
from train_head.classifier import HeadClassifier as HeadClassifier
from train_head.export.write import ExportResult
from train_head.predict.classify import Predictions
from train_head.report.page import Report
from train_head.runs.read import Run
from train_head.sweep.table import Sweep

StrPath = str | os.PathLike[str]
Progress = bool | ProgressCallback | None
'''


def format_stub() -> str:
    """Format the whole file."""
    functions = [api.extract, api.open_store, api.train, api.sweep, api.export, api.predict, api.report]
    return _HEADER + "".join(f"\n{_format_function(function)}" for function in functions)


def _format_function(function: Any) -> str:
    signature, name = inspect.signature(function), function.__name__
    options = {option.name: option for option in list_options(OPTIONS[name])} if name in OPTIONS else {}
    lines = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in lines:
            lines.append("*")
        kind = parameter.annotation
        if kind is parameter.empty:
            takes_lists = name == "sweep" and parameter.name in {field.name for field in fields(HeadConfig)}
            kind = _format_type(options[parameter.name], takes_lists=takes_lists)
        default = "" if parameter.default is parameter.empty else f" = {_format_default(parameter.default)}"
        lines.append(f"{parameter.name}: {kind}{default}")
    lines_of_text = [
        wrapped
        for line in (inspect.getdoc(function) or "").splitlines()
        for wrapped in textwrap.wrap(line, 112, subsequent_indent=" " * 8, drop_whitespace=True) or [""]
    ]
    text = "\n".join(f"    {line}".rstrip() for line in lines_of_text)
    arguments = "".join(f"    {line},\n" for line in lines)
    return f'def {name}(\n{arguments}) -> {signature.return_annotation}:\n    """{text.strip()}\n    """\n'


def _format_type(option: OptionSpec, *, takes_lists: bool) -> str:
    kind = option.kind
    if get_origin(kind) is list:
        kind, takes_lists = get_args(kind)[0], True
    if kind is Path or (kind is str and re.search("FILE|DIR", option.metavar)):
        text = "StrPath"
    elif issubclass(kind, StrEnum):
        text = f"Literal[{', '.join(repr(str(member)).replace(chr(39), chr(34)) for member in kind)}]"
    else:
        text = kind.__name__
    text += f" | Sequence[{text}]" if takes_lists else ""
    return text + (" | None" if option.is_optional else "")


def _format_default(value: object) -> str:
    if value is MISSING:
        return "..."
    text = repr(str(value) if isinstance(value, StrEnum | Path) else value)
    return text.replace("'", '"')


if __name__ == "__main__":
    FILE.write_text(format_stub())
