"""Terminal output: messages, tables, progress, JSON. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

from base.options import output_option
from base.streams import hide_native_stderr

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

    from base.progress import ProgressBar

_BIDI_CONTROLS = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that control the writing direction; they can make one file name look like another."""

FILE_WIDTH = 1000
"""Largest width of a table that is not printed on a terminal, in characters."""
NUM_LISTED = 5
"""Largest number of names or paths in a message."""
TENSORFLOW_VARIABLES: Mapping[str, str] = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "1"}
"""Environment variables for TensorFlow, unless they are set: no messages below errors, and oneDNN on every processor.

By default, TensorFlow uses oneDNN only on some processors, such as those with AVX-512 VNNI. Without it, the last bits
of a feature depend on the size of the batch.
"""
_UNUSED_BY_KERAS = frozenset({"matplotlib", "sklearn"})
"""Packages that Keras imports if they are installed; no command needs Keras's wrappers and plots."""


@dataclass(frozen=True)
class ConsoleOptions:
    """Options of every command."""

    json: Annotated[
        bool,
        output_option("--json", help="Print one JSON object on stdout; everything else goes to stderr."),
    ] = False
    quiet: Annotated[
        bool,
        output_option("--quiet", "-q", help="Print only warnings, errors and the JSON object of --json."),
    ] = False
    verbose: Annotated[bool, output_option("--verbose", "-v", help="Print more details.")] = False


@dataclass(frozen=True)
class Unit:
    """Unit of a progress bar, and how its amounts are printed."""

    name: str
    format_amount: Callable[[int], str]
    format_rate: Callable[[float], str]


ProgressCallback = Callable[[str, int, int, float], None]
"""Function of stage, number done, total and rate per second."""


class Console:
    """Terminal output of one command."""

    def __init__(self, options: ConsoleOptions | None = None, callback: ProgressCallback | None = None) -> None:
        """Create a console.

        Args:
            options: output options; by default everything except details is printed.
            callback: receives the progress, which is then not printed.
        """
        self.options = options or ConsoleOptions()
        self._callback = callback

    def info(self, message: str) -> None:
        """Print a message on stderr, except with `-q`; in a notebook, which marks stderr as errors, on stdout."""
        if not self.options.quiet:
            stream = sys.stdout if is_notebook() and not self.options.json else sys.stderr
            print(make_printable(message), file=stream, flush=True)

    def debug(self, message: str) -> None:
        """Print a message on stderr, only with `-v`."""
        if self.options.verbose:
            self.info(message)

    def warning(self, message: str) -> None:
        """Print a warning on stderr, also with `-q`."""
        print(f"warning: {make_printable(message)}", file=sys.stderr, flush=True)

    def error(self, message: str) -> None:
        """Print the error that ended a command as one line on stderr."""
        print(f"error: {make_printable(message)}", file=sys.stderr, flush=True)

    def show_table(self, title: str, rows: Sequence[Sequence[object]], *, on_stderr: bool = False) -> None:
        """Print a summary table with row names in the first column, except with `-q`; with `--json` on stderr."""
        if self.options.quiet:
            return
        on_stderr |= self.options.json
        if is_notebook() and not on_stderr:
            from base.notebook import Display, render_table

            text = "\n".join([title, *("  ".join(map(str, row)) for row in rows)])
            Display().show(render_table(title, rows), text)
            return
        from rich.table import Table

        stream = sys.stderr if on_stderr else sys.stdout
        table = Table(show_header=False)
        for index in range(max(len(row) for row in rows)):
            table.add_column(justify="left", overflow="fold", style="bold" if index == 0 else "")
        for row in rows:
            table.add_row(*(_escape(cell, stream) for cell in row))
        console = open_rich_console(on_stderr=on_stderr)
        # A title of the table itself would be wrapped at the width of the table.
        console.print(_escape(title, stream), style="table.title", soft_wrap=True)
        console.print(table)

    def show_result(self, result: Mapping[str, Any]) -> None:
        """Print the result as one JSON object on stdout, only with `--json`."""
        if self.options.json:
            print(json.dumps(make_json(result), ensure_ascii=True, allow_nan=False), flush=True)

    @contextmanager
    def progress(self, description: str, total: int, unit: str | Unit) -> Iterator[ProgressBar]:
        """Show the progress of the block with rate and time left.

        It is a bar on a terminal and in a notebook, and plain lines elsewhere.

        Args:
            description: name of the work.
            total: amount of work.
            unit: name of the counted things in the plural, or `BYTES`.
        """
        # base.progress formats its numbers with this module.
        from base.progress import open_progress

        unit = Unit(f" {unit}", "{:,}".format, format_rate) if isinstance(unit, str) else unit
        with open_progress(description, total, unit, self._callback, is_quiet=self.options.quiet) as bar:
            yield bar


def has_color(stream: TextIO) -> bool:
    """Return whether to print colours: on a terminal or with FORCE_COLOR, but not with NO_COLOR or TERM=dumb."""
    if os.environ.get("NO_COLOR") or is_dumb_terminal():
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def is_dumb_terminal() -> bool:
    """Return whether the terminal neither moves its cursor nor prints colours."""
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")


def open_rich_console(*, on_stderr: bool) -> RichConsole:
    """Create a console of rich for tables and progress bars, with colours where `has_color` allows them."""
    from rich.console import Console as RichConsole

    stream = sys.stderr if on_stderr else sys.stdout
    color_system: Literal["auto"] | None = "auto" if has_color(stream) else None
    # Outside a terminal, cells are not folded, so that paths in a log can be copied.
    width = None if stream.isatty() or "COLUMNS" in os.environ else FILE_WIDTH
    return RichConsole(stderr=on_stderr, highlight=False, emoji=False, color_system=color_system, width=width)


def is_notebook() -> bool:
    """Return True if this process is the IPython kernel of a notebook, such as Jupyter, Colab or VS Code."""
    # IPython is not a dependency. In a notebook, it is loaded.
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_shell is not None and getattr(get_shell(), "kernel", None) is not None


def import_quietly(module: str) -> None:
    """Import TensorFlow or Keras, and print the stderr output of native libraries only if the import fails.

    `TENSORFLOW_VARIABLES` are set before. In a command, it is imported without the packages of `_UNUSED_BY_KERAS`, in
    three quarters of the time.
    """
    from base.invocation import is_command_running

    for variable, value in TENSORFLOW_VARIABLES.items():
        os.environ.setdefault(variable, value)
    hidden: dict[str, Any] = dict.fromkeys(_UNUSED_BY_KERAS - sys.modules.keys() if is_command_running() else ())
    # A module that is None cannot be imported, as if its package were not installed.
    sys.modules.update(hidden)
    try:
        with hide_native_stderr():
            importlib.import_module(module)
    finally:
        for name in hidden:
            del sys.modules[name]


def format_seconds(seconds: float) -> str:
    """Format a duration as `0.4 s`, `12 s`, `3 min 05 s` or `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def format_rate(per_second: float) -> str:
    """Format a rate as `44.0/s`, or as `9.3 s each` below one per second."""
    return f"{per_second:.1f}/s" if per_second >= 1 or per_second == 0 else f"{1 / per_second:.1f} s each"


def format_count(number: int, noun: str, plural: str = "") -> str:
    """Format a number with its noun, as `1 picture`, `1,200 pictures` or `2 classes`.

    Args:
        number: the number.
        noun: the noun in the singular.
        plural: the plural; by default the noun with an `s`.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def format_list(items: Sequence[str], separator: str = ", ") -> str:
    """Format the first items of a list, and the number of the others."""
    more = f" and {len(items) - NUM_LISTED:,} more" if len(items) > NUM_LISTED else ""
    return separator.join(items[:NUM_LISTED]) + more


def format_bytes(num_bytes: float) -> str:
    """Format a size in powers of 1,000, as `512 B` or `3.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


BYTES = Unit("", format_bytes, lambda rate: f"{format_bytes(rate)}/s")
"""Unit of a progress bar of bytes."""


def make_printable(text: str) -> str:
    r"""Escape the characters of a text that control a terminal or cannot be encoded; file names may contain any.

    Control characters, line separators, changes of the writing direction and bytes that are not UTF-8 become
    escapes such as `\n`, `\x1b`, `\u202e` or `\udce9`.
    """

    def needs_escape(char: str) -> bool:
        return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or char in _BIDI_CONTROLS

    shown = (char.encode("unicode_escape").decode() if needs_escape(char) else char for char in text)
    return text if text.isprintable() else "".join(shown)


def make_json(value: object) -> object:
    """Convert a value for JSON: NaN and infinity to null, objects of unknown types to text."""
    match value:
        case bool() | int() | str() | None:
            return value
        case float():
            return float(value) if math.isfinite(value) else None
        case Mapping():
            return {str(key): make_json(inner) for key, inner in value.items()}
        case list() | tuple():
            return [make_json(inner) for inner in value]
    # NumPy scalars have item().
    return make_json(value.item()) if hasattr(value, "item") else str(value)


def _escape(cell: object, stream: TextIO) -> str:
    from rich.markup import escape

    encoding = stream.encoding or "utf-8"
    return escape(make_printable(str(cell)).encode(encoding, "backslashreplace").decode(encoding))
