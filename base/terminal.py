"""Terminal output: messages, tables, progress, JSON. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Annotated, Any, TextIO

import typer

from base import signals

_TURNS = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks of the direction of writing, with which a name can look like another."""


@dataclass(frozen=True)
class ConsoleOptions:
    """The options that every command has."""

    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout; everything else goes to stderr.")
    ] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only results, warnings and errors.")] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print more details.")] = False


ProgressCallback = Callable[[str, int, int, float], None]
"""Receives the stage, the number done, the total, and the rate a second."""


class Console:
    """Terminal output of one command."""

    def __init__(self, options: ConsoleOptions | None = None, callback: ProgressCallback | None = None) -> None:
        """Create a console.

        Args:
            options: by default everything but details is printed.
            callback: receives the progress, which is not printed then.
        """
        self.options = options or ConsoleOptions()
        self._callback = callback

    def info(self, message: str) -> None:
        """Print a message on stderr, unless `-q` is given."""
        if not self.options.quiet:
            print(make_printable(message), file=sys.stderr, flush=True)

    def debug(self, message: str) -> None:
        """Print a message on stderr if `-v` is given."""
        if self.options.verbose:
            self.info(message)

    def warning(self, message: str) -> None:
        """Print a warning on stderr, also with `-q`."""
        print(f"warning: {make_printable(message)}", file=sys.stderr, flush=True)

    def error(self, message: str) -> None:
        """Print the error that ended a command, in one line on stderr."""
        print(f"error: {make_printable(message)}", file=sys.stderr, flush=True)

    def show_table(self, title: str, rows: Sequence[Sequence[object]]) -> None:
        """Shows a table whose first column names things: the summary at the end of a stage."""
        if self.options.quiet:
            return
        from rich.console import Console as RichConsole
        from rich.table import Table

        stream = sys.stderr if self.options.json else sys.stdout
        table = Table(title=_escape(title, stream), title_justify="left", show_header=False)
        for index in range(max(len(row) for row in rows)):
            table.add_column(justify="left", overflow="fold", style="bold" if index == 0 else "")
        for row in rows:
            table.add_row(*(_escape(cell, stream) for cell in row))
        RichConsole(stderr=self.options.json, highlight=False, emoji=False).print(table)

    def show_result(self, result: Mapping[str, Any]) -> None:
        """Prints the result as one JSON object where `--json` asked for it."""
        if self.options.json:
            print(json.dumps(_make_json(result), ensure_ascii=True, allow_nan=False), flush=True)

    @contextmanager
    def progress(self, description: str, total: int, unit: str) -> Iterator[ProgressBar]:
        """Show progress with rate and time left: a bar on a terminal, plain lines elsewhere."""
        if self._callback and total:
            yield _CallbackProgress(self._callback, description, total)
        elif self.options.quiet or total == 0:
            yield ProgressBar(total)
        elif not sys.stderr.isatty():
            lines = _PlainLines(description, total, unit)
            yield lines
            lines.print()
        else:
            from rich.console import Console as RichConsole
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(f"{unit}, {{task.fields[rate]}}, left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            with Progress(*columns, console=RichConsole(stderr=True)) as bar:
                yield _TerminalBar(bar, description, total)


class ProgressBar:
    """Progress of one loop; shown by the subclasses."""

    def __init__(self, total: int) -> None:
        """Start the clock, with nothing done."""
        self.total, self.num_done, self.note = total, 0, ""
        self._started = time.monotonic()

    @property
    def rate(self) -> float:
        """Number done a second, so far."""
        return self.num_done / max(time.monotonic() - self._started, 1e-9)

    def advance(self, num_done: int, note: str = "") -> None:
        """Add to the number done, with a note for the end of the line."""
        self.num_done, self.note = self.num_done + num_done, note
        self.show()

    def show(self) -> None:
        """Show the progress after a step."""


class _CallbackProgress(ProgressBar):
    def __init__(self, callback: ProgressCallback, description: str, total: int) -> None:
        super().__init__(total)
        self._callback, self._description = callback, description

    def show(self) -> None:
        self._callback(self._description, self.num_done, self.total, self.rate)


class _TerminalBar(ProgressBar):
    def __init__(self, bar: Any, description: str, total: int) -> None:
        super().__init__(total)
        self._bar, self._task = bar, bar.add_task(description, total=total, rate="", note="")

    def show(self) -> None:
        self._bar.update(self._task, completed=self.num_done, rate=format_rate(self.rate), note=self.note)


class _PlainLines(ProgressBar):
    """A line every five seconds, and one at the end."""

    INTERVAL_S = 5.0

    def __init__(self, description: str, total: int, unit: str) -> None:
        super().__init__(total)
        self._description, self._unit, self._printed = description, unit, time.monotonic()

    def show(self) -> None:
        if time.monotonic() - self._printed >= self.INTERVAL_S and self.num_done < self.total:
            self._printed = time.monotonic()
            self.print()

    def print(self) -> None:
        rate = self.rate
        left = format_seconds((self.total - self.num_done) / rate) if rate else "unknown"
        done = f"{self.num_done:,}/{self.total:,} {self._unit}"
        note = f", {self.note}" if self.note else ""
        print(f"{self._description}: {done}, {format_rate(rate)}, {left} left{note}", file=sys.stderr, flush=True)


def import_quietly(module: str) -> None:
    """Import a module whose native libraries write to stderr; show what they wrote only if the import fails.

    An interrupt waits until the module is imported: a library that is interrupted there raises errors of its own.
    """
    try:
        written: IO[bytes] | None = tempfile.TemporaryFile()  # noqa: SIM115
    except OSError:
        # A full disk is no reason not to read from it.
        written = None
    with signals.defer_interrupt():
        if written is None:
            importlib.import_module(module)
            return
        with written:
            _import_into(module, written)


def _import_into(module: str, written: IO[bytes]) -> None:
    sys.stderr.flush()
    kept, shown = os.dup(2), b""
    os.dup2(written.fileno(), 2)
    try:
        importlib.import_module(module)
    except Exception:
        written.seek(0)
        shown = written.read()
        raise
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        print(shown.decode(errors="backslashreplace"), end="", file=sys.stderr, flush=True)


def format_seconds(seconds: float) -> str:
    """Formats a duration for people: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def format_rate(per_second: float) -> str:
    """Formats a rate for people: `44.0/s`, or `9.3 s each` where it is below one."""
    return f"{per_second:.1f}/s" if per_second >= 1 or per_second == 0 else f"{1 / per_second:.1f} s each"


def format_count(number: int, noun: str, plural: str = "") -> str:
    """Format a number with its noun: `1 picture`, `1,200 pictures`, `2 classes`.

    Args:
        number: how many.
        noun: the noun in the singular.
        plural: the plural, where it is not the noun with an `s`.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def format_bytes(num_bytes: float) -> str:
    """Formats a size for people, in powers of 1,000: `512 B`, `3.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def make_printable(text: str) -> str:
    r"""Shows what a terminal would obey, or could not encode: a file's name may hold anything.

    Control characters, those that turn the direction of writing or end a line, and bytes that are no UTF-8 become
    `\n`, `\x1b`, `\u202e` or `\udce9`.
    """

    def is_obeyed(char: str) -> bool:
        return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or char in _TURNS

    shown = (char.encode("unicode_escape").decode() if is_obeyed(char) else char for char in text)
    return text if text.isprintable() else "".join(shown)


def _make_json(value: object) -> object:
    """Return what JSON can hold: null for numbers that are none, text for what it does not know."""
    match value:
        case bool() | int() | str() | None:
            return value
        case float():
            return float(value) if math.isfinite(value) else None
        case Mapping():
            return {str(key): _make_json(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_make_json(inner) for inner in value]
    # A number of NumPy's is one of Python's own inside.
    return _make_json(value.item()) if hasattr(value, "item") else str(value)


def _escape(cell: object, stream: TextIO) -> str:
    from rich.markup import escape

    encoding = stream.encoding or "utf-8"
    return escape(make_printable(str(cell)).encode(encoding, "backslashreplace").decode(encoding))
