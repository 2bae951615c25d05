"""What a notebook shows for an error that the user can fix. IPython calls `_render_traceback_`."""

from __future__ import annotations

import linecache

import pytest

from base.errors import HeadstartError, UsageError

pytestmark = pytest.mark.unit


def test_error_in_a_cell_shows_the_line_the_class_and_the_message() -> None:
    cell = "x = 1\n\nfail()  # in the second cell\n"
    linecache.cache["cell-2"] = (len(cell), None, cell.splitlines(keepends=True), "cell-2")

    def fail() -> None:
        raise UsageError("units", "at least 0", "-1", "Give a larger number")

    with pytest.raises(HeadstartError) as caught:
        exec(compile(cell, "cell-2", "exec"), {"__name__": "__main__", "fail": fail})  # noqa: S102
    line, message = caught.value._render_traceback_()
    assert line.endswith("3: fail()  # in the second cell")
    assert message == f"UsageError: {caught.value}"


def test_error_outside_a_cell_shows_the_class_and_the_message() -> None:
    error = UsageError("units", "at least 0", "-1", "Give a larger number")
    assert error._render_traceback_() == [f"UsageError: {error}"]
