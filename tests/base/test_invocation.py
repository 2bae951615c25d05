"""Commands in messages: the program that the user started, quoted for the shell, and as variables of make."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from base.invocation import format_command, format_options, set_program, suggest_beside
from tests.systems import needs_posix

pytestmark = [pytest.mark.unit, needs_posix]
BASH = shutil.which("bash") or "bash"


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the program, and hide make."""
    monkeypatch.delenv("HEADSTART_MAKE", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    set_program("python -m train_head")
    yield
    set_program("")


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("python -m train_head", "{python} -m features check 'my store'"),
        ("python -m headstart train", "{python} -m headstart features check 'my store'"),
        ("headstart train", "headstart features check 'my store'"),
    ],
)
def test_format_command_uses_the_program_that_the_user_started(
    program: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    set_program(program)
    assert format_command("features check", "my store") == expected.format(python=shlex.quote(sys.executable))


def test_format_command_names_an_interpreter_in_the_path_and_shortens_one_below_the_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "my env" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.chdir(tmp_path)
    assert format_command("train") == "'my env/python' -m train_head"
    monkeypatch.setenv("PATH", str(python.parent))
    assert format_command("train") == "python -m train_head"


def test_format_command_names_an_installed_program_outside_the_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "bin" / "headstart"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    set_program("headstart train")
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert format_command("runs") == f"{program} runs"
    monkeypatch.setenv("PATH", str(program.parent))
    assert format_command("runs") == "headstart runs"


@pytest.mark.parametrize(
    "name", ["my store", "it's", '"a"', "$HOME", "`id`", "a;b", "a\\b", "#a", "~a", "*", "Füße 猫", "-a", "--store"]
)
def test_format_command_pasted_into_bash_has_the_same_path(name: str) -> None:
    line = format_command("features check", Path(name), "--read-data")
    done = subprocess.run([BASH, "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    *_, path, option = done.stdout.decode().split("\0")[:-1]
    assert not path.startswith("-")
    assert (Path(path), option) == (Path(name), "--read-data")


def test_format_command_for_a_shared_file_has_no_path_of_this_computer() -> None:
    assert format_command("train", "--run", "run", is_shared=True) == "python -m train_head --run run"


def make(monkeypatch: pytest.MonkeyPatch, program: str = "make") -> None:
    monkeypatch.setenv("HEADSTART_MAKE", program)
    monkeypatch.setenv("HEADSTART_MAKE_TRAIN", "DROPOUT WEIGHTS PRESET")
    monkeypatch.setenv("HEADSTART_MAKE_EXTRACT", "LABELS PRESET")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--store", "a b", "--run", "r"], "make train STORE='a b' RUN=r"),
        (["train", "--dropout", "0.5", "--overwrite"], "make train DROPOUT=0.5 ARGS=--overwrite"),
        (["extract", "--batch-size", "8", "--preset", "small"], "make extract PRESET=small ARGS='--batch-size 8'"),
        (["sweep", "--store", "s", "--out", "o"], "make sweep STORE=s SWEEP=o"),
        (["extract summary"], "make summary"),
    ],
)
def test_format_command_under_make_is_a_command_of_make(
    words: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(monkeypatch)
    assert format_command(*words) == expected


def test_format_command_under_make_from_another_folder_works_there(monkeypatch: pytest.MonkeyPatch) -> None:
    make(monkeypatch, "make -C /checkout")
    assert format_command("train", "--run", "r") == "make -C /checkout train RUN=r"
    assert format_command("train", "--run", "r", is_shared=True) == "make train RUN=r"
    assert format_command("features merge", "a").startswith(f"cd {shlex.quote(str(Path.cwd()))} && ")


def test_format_options_are_variables_under_make(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        format_options("train", {"dropout": 0.5, "class_weight": "balanced"}) == "--dropout 0.5 --class-weight balanced"
    )
    make(monkeypatch)
    assert format_options("train", {"dropout": 0.5}) == "DROPOUT=0.5"


def test_suggest_beside_lists_the_folders_with_the_file_and_similar_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "run"
    assert suggest_beside(missing, "run.json", "RUN") == ""
    (tmp_path / "empty").mkdir()
    for name in ("sweep", "run my-pictures", "rum", "run 1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").touch()
    places = [shlex.quote(str(tmp_path / name)) for name in ("run 1", "rum", "run my-pictures")]
    assert suggest_beside(missing, "run.json", "RUN") == f", or give one that exists: {', '.join(places)}"
    monkeypatch.setenv("HEADSTART_MAKE", "make")
    assert suggest_beside(missing, "run.json", "RUN").endswith(f"RUN={places[2]}")
