"""Progress of a loop: a bar on a terminal and in a notebook, plain lines elsewhere, or a function of the caller."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from base.notebook import Display, render_progress
from base.terminal import (
    ProgressCallback,
    Unit,
    format_seconds,
    is_dumb_terminal,
    is_notebook,
    make_printable,
    open_rich_console,
)


class ProgressBar:
    """Progress of a loop; subclasses display it."""

    def __init__(self, total: int) -> None:
        """Start the clock."""
        self.total, self.num_done, self.note = total, 0, ""
        self.started = time.monotonic()

    @property
    def rate(self) -> float:
        """Average number done per second."""
        return self.num_done / max(time.monotonic() - self.started, 1e-9)

    def advance(self, num_done: int, note: str = "") -> None:
        """Increase the number done; the note is shown at the end of the line."""
        self.num_done, self.note = self.num_done + num_done, note
        self.show()

    def show(self) -> None:
        """Display the current progress."""


class _CallbackProgress(ProgressBar):
    def __init__(self, callback: ProgressCallback, description: str, total: int) -> None:
        super().__init__(total)
        self._callback, self._description = callback, description

    def show(self) -> None:
        self._callback(self._description, self.num_done, self.total, self.rate)


class _TerminalBar(ProgressBar):
    def __init__(self, bar: Any, description: str, total: int, unit: Unit) -> None:
        super().__init__(total)
        self._bar, self._unit = bar, unit
        self._task = bar.add_task(description, total=total, line=_format_done(self, unit))

    def show(self) -> None:
        self._bar.update(self._task, completed=self.num_done, line=_format_line(self, self._unit))


class _PlainLines(ProgressBar):
    """Progress as plain lines: one every five seconds, and one at the end."""

    INTERVAL_S = 5.0

    def __init__(self, description: str, total: int, unit: Unit) -> None:
        super().__init__(total)
        self._description, self._unit, self._printed = description, unit, time.monotonic()

    def show(self) -> None:
        if time.monotonic() - self._printed >= self.INTERVAL_S and self.num_done < self.total:
            self._printed = time.monotonic()
            self.print()

    def print(self) -> None:
        print(f"{self._description}: {_format_line(self, self._unit)}", file=sys.stderr, flush=True)


class _NotebookBar(ProgressBar):
    """Progress as HTML that is updated in its place, at most five times a second."""

    INTERVAL_S = 0.2

    def __init__(self, description: str, total: int, unit: Unit) -> None:
        super().__init__(total)
        self._description, self._unit, self._display = description, unit, Display()
        self._shown = 0.0
        self.print()

    def show(self) -> None:
        if time.monotonic() - self._shown >= self.INTERVAL_S:
            self.print()

    def print(self) -> None:
        self._shown, line = time.monotonic(), _format_line(self, self._unit)
        html = render_progress(self._description, self.num_done, self.total, line)
        self._display.show(html, f"{self._description}: {line}")


@contextmanager
def open_progress(
    description: str, total: int, unit: Unit, callback: ProgressCallback | None, *, is_quiet: bool
) -> Iterator[ProgressBar]:
    """Show the progress of the block; `Console.progress` describes the arguments."""
    description = make_printable(description)
    if callback and total:
        yield _CallbackProgress(callback, description, total)
    elif is_quiet or total == 0:
        yield ProgressBar(total)
    elif is_notebook():
        notebook_bar = _NotebookBar(description, total, unit)
        try:
            yield notebook_bar
        finally:
            notebook_bar.print()
    elif not sys.stderr.isatty() or is_dumb_terminal():
        lines = _PlainLines(description, total, unit)
        yield lines
        lines.print()
    else:
        from rich.progress import BarColumn, Progress, TextColumn

        # Names may contain brackets, which are not markup.
        name, line = (TextColumn(f"{{task.{field}}}", markup=False) for field in ("description", "fields[line]"))
        with Progress(name, BarColumn(), line, console=open_rich_console(on_stderr=True)) as bar:
            yield _TerminalBar(bar, description, total, unit)


def _format_done(bar: ProgressBar, unit: Unit) -> str:
    return f"{unit.format_amount(bar.num_done)}/{unit.format_amount(bar.total)}{unit.name}"


def _format_line(bar: ProgressBar, unit: Unit) -> str:
    rate, seconds = bar.rate, time.monotonic() - bar.started
    left = format_seconds((bar.total - bar.num_done) / rate) if rate else "unknown"
    duration = format_seconds(seconds) if bar.num_done >= bar.total else f"{left} left"
    note = f", {bar.note}" if bar.note else ""
    return f"{_format_done(bar, unit)}, {unit.format_rate(rate)}, {duration}{note}"
