"""Command lines made from dataclasses: results on stdout, the rest on stderr, the design's exit statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from base.terminal import Console, ConsoleOptions

PROGRAM = """
import errno
import shutil
import sys
from pathlib import Path
from dataclasses import dataclass
from typing import Annotated
from typer import Option
from base.command_line import CommandFailed, run_app
from base.errors import HeadstartError, UsageError

@dataclass(frozen=True)
class Config:
    mode: Annotated[str, Option(help="What to do.")]
    times: Annotated[int, Option(min=1, help="How often.")] = 2
    run: Annotated[Path, Option(help="What to write.")] = Path("work/run")

def act(config, console):
    '''Act.'''
    console.info("said")
    console.debug("detail")
    console.warning("watch out")
    match config.mode:
        case "fail": raise HeadstartError("a.jpg", "a picture", "a page", "Remove it")
        case "usage": raise UsageError("--mode", "x", "y", "Do z")
        case "problem": raise CommandFailed({"ok": False})
        case "file": open("/nowhere/at/all")
        case "full": raise OSError(errno.ENOSPC, "No space left on device")
        case "copies": raise shutil.Error([("a.h5", "b.h5", "[Errno 28] No space left on device"), ("c", "d", "x")])
        case "bug": raise ValueError("7 is not 8")
        case "interrupt": raise KeyboardInterrupt
    with console.progress("work", 3, "items") as progress:
        progress.advance(3)
    console.show_table("sums", [("times", config.times)])
    if config.mode == "done":
        Path(config.run).write_text("done")
    return {"times": config.times, "mode": config.mode}

run_app(act, Config, "program")
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )


def test_command_done_exits_0_with_the_table_on_stdout() -> None:
    done = run("--mode", "x", "--times", "5")
    assert done.returncode == 0
    assert "times" in done.stdout
    assert "5" in done.stdout
    assert "said" in done.stderr
    assert "detail" not in done.stderr
    assert "work: 3/3 items" in done.stderr


def test_command_json_prints_one_object_on_stdout_and_nothing_else() -> None:
    done = run("--mode", "x", "--json")
    assert json.loads(done.stdout) == {"times": 2, "mode": "x"}
    assert "times" in done.stderr


def test_command_quiet_says_only_warnings() -> None:
    done = run("--mode", "x", "-q")
    assert (done.stdout, done.stderr) == ("", "warning: watch out\n")


def test_command_verbose_adds_details() -> None:
    assert "detail\n" in run("--mode", "x", "-v").stderr


@pytest.mark.parametrize(
    ("mode", "status", "kind", "where"),
    [
        ("fail", 1, "HeadstartError", "a.jpg"),
        ("file", 1, "HeadstartError", "/nowhere/at/all"),
        ("usage", 2, "UsageError", "--mode"),
        ("full", 1, "HeadstartError", "work/run"),
        ("copies", 1, "HeadstartError", "a.h5 and 1 more"),
        ("bug", 1, "HeadstartError", "headstart"),
    ],
)
def test_command_error_exits_with_its_status_one_line_and_its_fields(
    mode: str, status: int, kind: str, where: str
) -> None:
    done = run("--mode", mode, "--json")
    result = json.loads(done.stdout)
    assert (done.returncode, result["type"], result["where"]) == (status, kind, where)
    assert set(result) == {"error", "type", "where", "expected", "got", "advice"}
    assert done.stderr.splitlines()[-1] == f"error: {result['error']}"
    assert "Traceback" not in done.stderr


def test_command_interrupted_exits_with_130() -> None:
    done = run("--mode", "interrupt", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (130, {"error": "interrupted"})


def test_command_that_found_a_problem_prints_its_result_and_exits_1() -> None:
    done = run("--mode", "problem", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (1, {"ok": False})


@pytest.mark.parametrize("arguments", [[], ["--mode", "x", "--tmies", "3"], ["--mode", "x", "--times", "0"]])
def test_command_wrong_usage_exits_2(arguments: list[str]) -> None:
    done = run(*arguments, "--json")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert list(json.loads(done.stdout)) == ["error"]


@pytest.mark.parametrize("empty", [["--run", ""], ["--run="]])
def test_command_empty_path_is_wrong_usage_and_not_the_current_folder(empty: list[str]) -> None:
    done = run("--mode", "x", *empty, "--json")
    assert done.returncode == 2
    assert (json.loads(done.stdout)["type"], json.loads(done.stdout)["where"]) == ("UsageError", "--run")


def test_command_path_through_a_folder_that_does_not_exist_is_the_place_it_names(tmp_path: Path) -> None:
    done = run("--mode", "done", "--run", f"{tmp_path}/nowhere/../file", "-q")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("redirections", "options", "status", "errors"),
    [
        (">&-", "", 1, ["error: standard output: "]),
        (">/dev/full", "--json", 1, ["error: standard output: "]),
        ("2>&-", "--json", 0, []),
        ("2>/dev/full", "--json", 0, []),
        ("<&- >&- 2>&-", "--json", 1, []),
        ("| true", "", 141, []),
        ("| true", "--json", 141, []),
        ("2>&1 | true", "", 141, []),
    ],
)
def test_command_whose_output_is_lost_does_its_work_and_exits_with_a_status(
    redirections: str, options: str, status: int, errors: list[str], tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    # The reader of the pipe has ended before anything is written to it.
    program.write_text("import time\ntime.sleep(0.1)\n" + PROGRAM)
    command = f"{sys.executable} {program} --mode done --run {tmp_path}/run -v {options} {redirections}"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run").read_text() == "done"
    failures = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(failures) == len(errors)
    assert all(line.startswith(error) for line, error in zip(failures, errors, strict=True))


def test_command_with_a_closed_standard_error_does_not_write_messages_into_its_files(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    # As native libraries write, which care about no error.
    noise = "file = open(config.run, 'w')\n    write_noise()\n    file.write('done'); file.close()"
    define = "def write_noise():\n    try: os.write(2, b'noise')\n    except OSError: pass\n"
    program.write_text("import os\n" + define + PROGRAM.replace('console.info("said")', noise))
    command = f"{sys.executable} {program} --mode x --run {tmp_path}/run 2>&-"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(["bash", "-c", command], check=False, env=environment, capture_output=True)
    assert (tmp_path / "run").read_text() == "done"


def test_command_in_a_locale_without_utf8_takes_and_writes_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "Füße 猫"
    folder.mkdir()
    program = tmp_path / "program.py"
    # The default encoding, as in code that opens a file without naming one.
    program.write_text(PROGRAM.replace('write_text("done")', "write_text(str(config.run))"))
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(program), "--mode", "done", "--run", str(folder / "run"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert (folder / "run").read_text(encoding="utf-8") == str(folder / "run")


def test_command_json_holds_null_for_numbers_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    Console(ConsoleOptions(json=True)).show_result({"loss": float("nan"), "path": Path("a"), "n": np.int64(3)})
    assert json.loads(capsys.readouterr().out) == {"loss": None, "path": "a", "n": 3}
