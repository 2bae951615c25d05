"""Command lines built from dataclasses: output streams, exit statuses, errors and invalid arguments."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from base.arguments import parse_arguments
from base.errors import UsageError
from base.terminal import Console, ConsoleOptions
from tests.base.program import Config
from tests.commands import CommandResult, run_command
from tests.errors import raises
from tests.systems import needs_posix

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> CommandResult:
    return run_command("tests.base.program", *arguments)


@pytest.mark.unit
def test_command_prints_the_table_on_stdout_and_messages_on_stderr() -> None:
    done = run("--mode", "x", "--times", "5")
    assert done.status == 0
    assert "times" in done.out
    assert "5" in done.out
    assert [line.split(" items")[0] for line in done.err.splitlines()] == [
        "information",
        "warning: attention",
        "work: 3/3",
    ]


@pytest.mark.unit
@pytest.mark.parametrize(("given", "times"), [([], 9), (["--times", "2"], 2), (["--times", "5"], 5)])
def test_command_preset_sets_the_options_that_are_not_given(given: list[str], times: int) -> None:
    done = run("--mode", "x", "--preset", "many", *given, "--json")
    assert done.json["times"] == times
    assert "--times 9" in done.err


@pytest.mark.unit
def test_command_json_prints_one_object_on_stdout() -> None:
    done = run("--mode", "x", "--json")
    assert done.json == {"times": 2, "mode": "x"}
    assert "times" in done.err


@pytest.mark.unit
def test_command_quiet_prints_warnings_only() -> None:
    done = run("--mode", "x", "-q")
    assert (done.out, done.err) == ("", "warning: attention\n")


@pytest.mark.unit
def test_command_verbose_prints_details() -> None:
    assert "detail\n" in run("--mode", "x", "-v").err


@pytest.mark.unit
@pytest.mark.parametrize(
    ("mode", "status", "kind", "where"),
    [
        ("fail", 1, "HeadstartError", "a.jpg"),
        ("file", 1, "HeadstartError", str(Path("/missing/file"))),
        ("usage", 2, "UsageError", "--mode"),
        ("full", 1, "HeadstartError", str(Path("work/run"))),
        ("copies", 1, "HeadstartError", "a.h5 and 1 more"),
        ("memory", 1, "HeadstartError", "memory"),
        ("bug", 1, "HeadstartError", "headstart"),
    ],
)
def test_command_error_has_its_exit_status_a_single_line_and_all_fields(
    mode: str, status: int, kind: str, where: str
) -> None:
    done = run("--mode", mode, "--json")
    assert (done.status, done.json["type"], done.json["where"]) == (status, kind, where)
    assert set(done.json) == {"error", "type", "where", "expected", "got", "advice"}
    assert done.err.splitlines()[-1] == f"error: {done.json['error']}"
    assert "Traceback" not in done.err


@pytest.mark.unit
def test_command_verbose_prints_the_traceback_of_an_internal_error() -> None:
    assert "Traceback" in run("--mode", "bug", "-v").err


@pytest.mark.unit
def test_command_interrupted_exits_130() -> None:
    done = run("--mode", "interrupt", "--json")
    assert (done.status, done.json) == (130, {"error": "interrupted"})


@pytest.mark.unit
def test_command_failed_with_a_result_prints_it_and_exits_1() -> None:
    done = run("--mode", "problem", "--json")
    assert (done.status, done.json) == (1, {"ok": False})


@pytest.mark.unit
@pytest.mark.parametrize("arguments", [[], ["--mode", "x", "--tmies", "3"], ["--mode", "x", "--times", "0"]])
def test_command_invalid_arguments_exit_2(arguments: list[str]) -> None:
    done = run(*arguments, "--json")
    assert done.status == 2
    assert "Traceback" not in done.err
    assert set(done.json) == {"error", "type", "where", "expected", "got", "advice"}
    assert done.err == f"error: {done.json['error']}\n"


@pytest.mark.unit
@pytest.mark.parametrize("empty", [["--run", ""], ["--run="]])
def test_command_empty_path_is_usage_error(empty: list[str]) -> None:
    done = run("--mode", "x", *empty, "--json")
    assert (done.status, done.json["type"], done.json["where"]) == (2, "UsageError", "--run")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["train_head.predict.__main__", "--model", "x", ""], "FILE_OR_DIR"),
        (["features.__main__", "check", ""], "STORE"),
        (["train_head.predict.__main__", "--model", "", "x"], "--model"),
    ],
)
def test_command_empty_path_by_position_is_usage_error(words: list[str], where: str) -> None:
    done = run_command(*words, "--json")
    assert (done.status, done.json["where"], done.json["got"]) == (2, where, "an empty value")


@pytest.mark.unit
def test_command_switch_with_a_value_is_usage_error() -> None:
    done = run("--mode", "x", "--json=yes")
    assert done.status == 2
    assert "--json: expected no value" in done.err


@pytest.mark.unit
def test_subcommand_with_invalid_arguments_refers_to_its_own_help() -> None:
    assert "See `python -m features check --help`" in run_command("features.__main__", "check").err


@pytest.mark.unit
def test_command_path_through_a_missing_folder_is_normalized(tmp_path: Path) -> None:
    assert run("--mode", "write", "--run", f"{tmp_path}/missing/../file", "-q").status == 0
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.unit
def test_result_not_a_number_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    Console(ConsoleOptions(json=True)).show_result({"loss": float("nan"), "path": Path("a"), "n": np.int64(3)})
    assert json.loads(capsys.readouterr().out) == {"loss": None, "path": "a", "n": 3}


def run_shell(command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in bash, with the test program as PROGRAM; the status is that of the first command."""
    script = command.replace("PROGRAM", f"{sys.executable} -m tests.base.program") + "; exit ${PIPESTATUS[0]}"
    environment = os.environ | variables
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )


@needs_posix
@pytest.mark.parametrize(
    ("redirections", "status", "num_errors"),
    [
        (">&-", 1, 1),
        (">/dev/full --json", 1, 1),
        ("2>/dev/full --json", 0, 0),
        ("<&- >&- 2>&- --json", 1, 0),
        ("| true", 141, 0),
        ("2>&1 | true", 141, 0),
    ],
)
def test_process_without_output_completes_its_work(
    redirections: str, status: int, num_errors: int, tmp_path: Path
) -> None:
    done = run_shell(f"PROGRAM --mode write --run {tmp_path}/run -v {redirections}")
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    # With a closed stderr, noise of a library must not get into the file either.
    assert (tmp_path / "run").read_text() == f"{tmp_path}/run"
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: standard output: ")]
    assert len(errors) == num_errors


@needs_posix
def test_process_with_closed_stderr_writes_no_messages_into_its_files(tmp_path: Path) -> None:
    assert run_shell(f"PROGRAM --mode write --run {tmp_path}/run --json 2>&-").returncode == 0
    assert (tmp_path / "run").read_text() == f"{tmp_path}/run"


@needs_posix
def test_process_in_a_locale_without_utf8_reads_and_writes_any_name(tmp_path: Path) -> None:
    path = tmp_path / "Füße 猫"
    done = run_shell(f"PROGRAM --mode write --run '{path}' --json", LC_ALL="C", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert path.read_text(encoding="utf-8") == str(path)


@pytest.mark.unit
def test_parse_arguments_returns_options_with_those_of_the_preset() -> None:
    found = parse_arguments(Config, ["--mode", "x", "--preset", "many"], "program")
    assert (found.mode, found.times) == ("x", 9)
    assert parse_arguments(Config, ["--mode", "x", "--preset", "many", "--times", "2"], "program").times == 2


@pytest.mark.unit
@pytest.mark.parametrize("wrong", [["--tmies", "1"], ["--times", "few"], ["--help"], ["more"]])
def test_parse_arguments_with_invalid_arguments_is_a_usage_error(wrong: list[str]) -> None:
    with raises(UsageError):
        parse_arguments(Config, ["--mode", "x", *wrong], "program")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("variables", "is_colored"),
    [
        ({"FORCE_COLOR": "1", "TERM": "xterm"}, True),
        ({"TERM": "xterm"}, False),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, False),
        ({"FORCE_COLOR": "1", "TERM": "xterm", "NO_COLOR": "1"}, False),
    ],
)
def test_help_and_tables_are_colored_as_the_environment_demands(
    variables: dict[str, str], is_colored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for arguments in (["--help"], ["--mode", "x"]):
        assert ("\x1b[" in run(*arguments).out) == is_colored


@pytest.mark.unit
@pytest.mark.parametrize(("terminal", "has_bar"), [("xterm", True), ("dumb", False)])
def test_progress_is_a_bar_only_where_the_cursor_can_move_and_prints_any_name(
    terminal: str, has_bar: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    terminal_stream = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal_stream)
    with Console().progress("push a[/b]\x1b[9m", 3, "items") as progress:
        progress.advance(3, "a note")
    printed = terminal_stream.getvalue()
    assert ("\x1b[2K" in printed) == has_bar
    assert "push a[/b]\\x1b[9m" in printed
    assert re.search("3/3 items, .*, a note", printed)
