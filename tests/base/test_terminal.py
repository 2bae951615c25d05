"""Terminal output: formats, escapes, tables and progress."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from base import progress as displays
from base.invocation import set_program
from base.terminal import (
    BYTES,
    Console,
    ConsoleOptions,
    format_bytes,
    format_count,
    format_list,
    format_rate,
    format_seconds,
    import_quietly,
    make_printable,
)

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (12.4, "12 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_format_seconds_has_two_units_at_most(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(("rate", "text"), [(0, "0.0/s"), (44.04, "44.0/s"), (1, "1.0/s"), (0.108, "9.3 s each")])
def test_format_rate_below_one_is_inverted(rate: float, text: str) -> None:
    assert format_rate(rate) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (3_210, "3.2 kB"), (2.5e9, "2.5 GB"), (3e12, "3.0 TB")],
)
def test_format_bytes_uses_powers_of_1000(num_bytes: float, text: str) -> None:
    assert format_bytes(num_bytes) == text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, "picture"), "0 pictures"),
        ((1, "picture"), "1 picture"),
        ((1200, "picture"), "1,200 pictures"),
        ((2, "class", "classes"), "2 classes"),
    ],
)
def test_format_count_uses_the_plural_except_for_one(arguments: tuple[int, str, str], text: str) -> None:
    assert format_count(*arguments) == text


@pytest.mark.parametrize(
    ("items", "text"),
    [(["a"], "a"), (["a", "b"], "a, b"), ([*"abcde"], "a, b, c, d, e"), ([*"abcdefg"], "a, b, c, d, e and 2 more")],
)
def test_format_list_of_many_counts_the_rest(items: list[str], text: str) -> None:
    assert format_list(items) == text


def test_show_table_prints_brackets_and_escapes_undecodable_names(capsys: pytest.CaptureFixture[str]) -> None:
    Console().show_table("t", [("[bold]a[/bold]", "\udcff.jpg")])
    printed = capsys.readouterr().out
    assert "[bold]a[/bold]" in printed
    assert "\\udcff.jpg" in printed


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain é 猫.jpg", "plain é 猫.jpg"),
        ("two\nlines\t.jpg", "two\\nlines\\t.jpg"),
        ("\x1b[2Jclear.jpg", "\\x1b[2Jclear.jpg"),
        ("bell\x07 and \x9b.jpg", "bell\\x07 and \\x9b.jpg"),
        ("caf\udce9.jpg", "caf\\udce9.jpg"),
        ("back\\slash.jpg", "back\\slash.jpg"),
        ("gpj.\u202eexe", "gpj.\\u202eexe"),
        ("two\u2028lines", "two\\u2028lines"),
    ],
)
def test_make_printable_escapes_control_characters(name: str, shown: str) -> None:
    assert make_printable(name) == shown


@pytest.mark.parametrize("method", ["show_table", "warning", "info", "error"])
def test_console_prints_no_control_characters(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    console, name = Console(), "\x1b]0;owned\x07.jpg"
    if method == "show_table":
        console.show_table(name, [(name, name)])
    else:
        getattr(console, method)(name)
    printed = "".join(capsys.readouterr())
    assert "owned" in printed
    assert not {"\x1b", "\x07"} & set(printed)


def test_show_table_keeps_a_long_title_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    title = f"predictions of {'long/' * 30}model.keras"
    Console().show_table(title, [("no picture",)])
    assert capsys.readouterr().out.splitlines()[0] == title


def test_show_table_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Console(ConsoleOptions(quiet=True)).show_table("t", [("a", 1)])
    assert capsys.readouterr().out == ""


def test_progress_lines_have_count_and_note(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(displays._PlainLines, "INTERVAL_S", 0.0)
    with Console().progress("work", 2, "items") as progress:
        progress.advance(1, "note 1")
        progress.advance(1, "note 2")
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("work: 1/2 items, ")
    assert first.endswith(", note 1")
    assert last.startswith("work: 2/2 items, ")
    assert last.endswith(", note 2")


def test_progress_callback_receives_stage_count_total_and_rate(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[tuple[str, int, int, float]] = []
    with Console(callback=lambda *values: calls.append(values)).progress("work", 3, "items") as progress:
        progress.advance(1)
        progress.advance(2)
    assert [call[:3] for call in calls] == [("work", 1, 3), ("work", 3, 3)]
    assert all(call[3] > 0 for call in calls)
    assert capsys.readouterr().err == ""


def test_progress_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(ConsoleOptions(quiet=True)).progress("work", 1, "items") as progress:
        progress.advance(1)
    assert "".join(capsys.readouterr()) == ""


@pytest.mark.parametrize(("end", "printed"), [("", ""), ("1 / 0", "output")])
def test_import_quietly_prints_native_output_if_the_import_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], end: str, printed: str
) -> None:
    name = f"native_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(f"import os; os.write(2, b'output'); {end}")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        import_quietly(name)
    except ZeroDivisionError:
        assert end
    print("after", file=sys.stderr, end="")
    assert capfd.readouterr().err == f"{printed}after"


@pytest.mark.parametrize("program", ["headstart predict", ""])
def test_import_quietly_hides_unused_packages_in_a_command_until_it_returns(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, package = f"module_{tmp_path.name}", f"package_{tmp_path.name}"
    (tmp_path / f"{package}.py").touch()
    (tmp_path / f"{module}.py").write_text(f"try: import {package}\nexcept ImportError: is_hidden = True")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("base.terminal._UNUSED_BY_KERAS", frozenset({package}))
    set_program(program)
    import_quietly(module)
    set_program("")
    assert hasattr(sys.modules[module], "is_hidden") == bool(program)
    importlib.import_module(package)


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_import_quietly_switches_onednn_on_unless_the_user_has_set_it(
    given: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"TF_ENABLE_ONEDNN_OPTS": given} if given else {}
    monkeypatch.setattr("os.environ", environment)
    import_quietly("json")
    assert environment["TF_ENABLE_ONEDNN_OPTS"] == expected


def test_progress_of_bytes_prints_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().progress("push", 5_000_000, BYTES) as progress:
        progress.advance(5_000_000)
    assert capsys.readouterr().err.startswith("push: 5.0 MB/5.0 MB, ")
