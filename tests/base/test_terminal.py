"""Words and numbers for people."""

from __future__ import annotations

import subprocess
import sys

import pytest

from base.terminal import Console, ConsoleOptions, format_bytes, format_rate, format_seconds, make_printable


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
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(("rate", "text"), [(0, "0.0/s"), (44.04, "44.0/s"), (1, "1.0/s"), (0.108, "9.3 s each")])
def test_format_rate(rate: float, text: str) -> None:
    assert format_rate(rate) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (3_210, "3.2 kB"), (2.5e9, "2.5 GB"), (3e12, "3.0 TB")],
)
def test_format_bytes(num_bytes: float, text: str) -> None:
    assert format_bytes(num_bytes) == text


def test_table_shows_brackets_and_undecodable_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
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
    ],
)
def test_make_printable_shows_what_a_terminal_would_obey(name: str, shown: str) -> None:
    assert make_printable(name) == shown


@pytest.mark.parametrize("method", ["show_table", "warning", "info"])
def test_console_never_hands_control_characters_on(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    console, name = Console(), "\x1b]0;owned\x07.jpg"
    if method == "show_table":
        console.show_table(name, [(name, name)])
    else:
        getattr(console, method)(name)
    printed = "".join(capsys.readouterr())
    assert "owned" in printed
    assert not {"\x1b", "\x07"} & set(printed)


def test_quiet_console_shows_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    Console(ConsoleOptions(quiet=True)).show_table("t", [("a", 1)])
    assert capsys.readouterr().out == ""


def test_import_quietly_shows_what_was_said_only_if_the_import_fails(tmp_path: object) -> None:
    program = (
        "import os, sys, pathlib\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        f"pathlib.Path({str(tmp_path)!r}, 'chatty.py').write_text('import os; os.write(2, b\"chatter\")')\n"
        f"pathlib.Path({str(tmp_path)!r}, 'broken.py').write_text('import os; os.write(2, b\"clue\"); 1/0')\n"
        "from base.terminal import import_quietly\n"
        "import_quietly('chatty')\n"
        "try:\n    import_quietly('broken')\nexcept ZeroDivisionError:\n    os.write(2, b' after')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "clue after"
