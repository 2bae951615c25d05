"""The trial of `doctor` on generated pictures, its process, and the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headstart.doctor import trial
from headstart.doctor.findings import Finding, Status
from tests.backbones import use_small_backbone
from tests.commands import run_command
from tests.systems import needs_posix


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shell script that runs instead of Python, in the process of the trial."""
    path = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(path))
    return path


def run_program(path: Path, script: str) -> list[Finding]:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    with trial.open_trial() as wait:
        return list(wait())


def test_trial_runs_all_stages_and_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The small backbone has no earlier layer.
    monkeypatch.setattr(trial, "CUT", "mixed5")
    with use_small_backbone():
        found = list(trial.run_trial(tmp_path))
    assert [each.name for each in found[2:]] == ["extract", "train", "export", "predict", "agreement of model and run"]
    assert {each.status for each in found} == {Status.OK}
    assert len(list(tmp_path.glob("pictures/*/*/*"))) == 16


@pytest.mark.unit
def test_failure_of_the_trial_is_reported_by_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(folder: Path) -> Iterator[Finding]:
        yield Finding("TensorFlow", "2.21")
        raise ValueError("broken\ndetails")

    monkeypatch.setattr(trial, "run_trial", fail)
    assert trial.main(tmp_path) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["name"] == "TensorFlow"
    assert err.splitlines() == ["ValueError: broken"]


@needs_posix
@pytest.mark.unit
def test_findings_of_the_process_are_read_and_its_folder_is_removed(program: Path) -> None:
    line = json.dumps({"name": "train", "value": "1 s", "status": "note", "advice": ""})
    found = run_program(program, f"touch $4/file; echo $4 > $0.folder; echo 'noise'; echo '{line}'")
    assert found == [Finding("train", "1 s", Status.NOTE)]
    assert not Path(Path(f"{program}.folder").read_text().strip()).exists()


@pytest.mark.unit
def test_illegal_instruction_on_windows_is_described_as_on_posix() -> None:
    found = [trial.describe_end(status, "", has_started=False) for status in (-4, 0xC000001D)]
    assert found[0].advice == found[1].advice
    assert "0xc000001d" in found[1].value


@needs_posix
@pytest.mark.unit
@pytest.mark.parametrize(
    ("end", "cause"),
    [
        ("echo noise >&2; echo 'ImportError: DLL' >&2; exit 1", "ImportError: DLL"),
        ("exit 3", "3"),
        ("exit 0", "0"),
        ("kill -ILL $$", "SIGILL"),
        ("kill -KILL $$", "SIGKILL"),
    ],
)
def test_end_of_the_process_is_a_problem_with_its_cause(end: str, cause: str, program: Path) -> None:
    (found,) = run_program(program, end)
    assert (found.name, found.status) == ("TensorFlow", Status.PROBLEM)
    assert cause in found.value
    assert found.advice
    line = json.dumps({"name": "TensorFlow", "value": "2.21", "status": "ok", "advice": ""})
    assert run_program(program, f"echo '{line}'; {end}")[-1].name == ("TensorFlow" if end == "exit 0" else "trial")


@pytest.fixture
def _no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def open_trial() -> Iterator[object]:
        yield lambda: [Finding("train", "1 s")]

    monkeypatch.setattr(trial, "open_trial", open_trial)
    monkeypatch.setattr("headstart.doctor.weights.check_sources", lambda *_, **__: [])


@pytest.mark.unit
@pytest.mark.usefixtures("_no_trial")
def test_command_prints_the_findings_and_its_status_is_0_without_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    done = run_command("headstart.doctor.__main__", "--json")
    assert (done.status, done.json["ok"]) == (0, True), done.err
    topics = list(dict.fromkeys(each["topic"] for each in done.json["findings"]))
    assert topics[:5] == ["versions", "environment", "computer", "weights", "folders"]
    assert done.json["findings"][-1]["name"] == "train"
    assert str(tmp_path) not in done.out + done.err
    quiet = run_command("headstart.doctor.__main__", "-q")
    assert (quiet.status, quiet.out, quiet.err) == (0, "", "")


@pytest.mark.unit
@pytest.mark.usefixtures("_no_trial")
def test_command_with_a_problem_fails_and_lists_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "file/cache"))
    done = run_command("headstart.doctor.__main__", "--json")
    assert (done.status, done.json["ok"]) == (1, False)
    problems = [each["name"] for each in done.json["findings"] if each["status"] == "problem"]
    assert problems == ["cache"]
    assert "cache: " in done.err


@pytest.mark.unit
def test_command_without_space_for_the_trial_reports_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def fail() -> Iterator[object]:
        raise OSError(28, "No space left on device")
        yield

    monkeypatch.setattr(trial, "open_trial", fail)
    monkeypatch.setattr("headstart.doctor.__main__.list_checks", lambda _: {})
    done = run_command("headstart.doctor.__main__", "--json")
    assert done.status == 1
    assert "No space left" in done.json["findings"][0]["value"]
