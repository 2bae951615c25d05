"""Command lines made from dataclasses: results on stdout, the rest on stderr, the design's exit statuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from dataclasses import dataclass
from typing import Annotated
from typer import Option
from features.command import CommandFailed, run_app
from features.errors import HeadstartError, UsageError

@dataclass(frozen=True)
class Config:
    mode: Annotated[str, Option(help="What to do.")]
    times: Annotated[int, Option(min=1, help="How often.")] = 2

def act(config, console):
    '''Act.'''
    console.say("said")
    console.detail("detail")
    console.warn("watch out")
    match config.mode:
        case "fail": raise HeadstartError("a.jpg", "a picture", "a page", "Remove it")
        case "usage": raise UsageError("--mode", "x", "y", "Do z")
        case "problem": raise CommandFailed({"ok": False})
        case "file": open("/nowhere/at/all")
        case "interrupt": raise KeyboardInterrupt
    with console.progress("work", 3, "items") as progress:
        progress.advance(3)
    console.show_table("sums", [("times", config.times)])
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
    ("mode", "status", "message"),
    [
        ("fail", 1, "error: a.jpg: expected a picture, got a page. Remove it.\n"),
        (
            "file",
            1,
            "error: /nowhere/at/all: expected a file that can be used, got No such file or directory. "
            "See what stands there and who may use it.\n",
        ),
        ("usage", 2, "error: --mode: expected x, got y. Do z.\n"),
        ("interrupt", 1, "error: interrupted. What was finished is kept; run the same command again.\n"),
    ],
)
def test_command_error_exits_with_its_status_and_one_line(mode: str, status: int, message: str) -> None:
    done = run("--mode", mode, "--json")
    assert done.returncode == status
    assert done.stderr.endswith(message)
    assert "Traceback" not in done.stderr
    assert list(json.loads(done.stdout)) == ["error"]


def test_command_that_found_a_problem_prints_its_result_and_exits_1() -> None:
    done = run("--mode", "problem", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (1, {"ok": False})


@pytest.mark.parametrize("arguments", [[], ["--mode", "x", "--tmies", "3"], ["--mode", "x", "--times", "0"]])
def test_command_wrong_usage_exits_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
