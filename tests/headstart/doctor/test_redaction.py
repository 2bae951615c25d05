"""Personal data in the report of `doctor`: paths and names are replaced, and everything else is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from headstart.doctor.findings import Finding
from headstart.doctor.redaction import Redactor, build_redactor
from tests.systems import needs_posix

pytestmark = pytest.mark.unit


@pytest.fixture
def redactor() -> Redactor:
    places = {"/home/Maria Lopez": "~", "/home/Maria Lopez/my work": "<current folder>", "/tmp": "<temporary folder>"}
    return Redactor(places, {"maria": "<user>", "marias-laptop": "<host>"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/Maria Lopez/my work/a b.jpg: no such file", "<current folder>/a b.jpg: no such file"),
        ("'/home/Maria Lopez/.cache/x'", "'~/.cache/x'"),
        ("/home/Maria Lopez", "~"),
        ("/home/Maria Lopezian/x", "…/<user> Lopezian/x"),
        ("see /mnt/projects/secret/file.txt.", "see …/file.txt."),
        ("C:\\Users\\maria\\x.txt", "…/x.txt"),
        ("https://storage.googleapis.com/a/b.h5", "https://storage.googleapis.com/a/b.h5"),
        ("http://marias-laptop:80/a", "http://<host>:80/a"),
        ("written by Maria on marias-laptop", "written by <user> on <host>"),
        ("5 and/or 6, 3/4, work/elpv, float32/bfloat16", "5 and/or 6, 3/4, work/elpv, float32/bfloat16"),
        ("CPython 3.11.7 on Linux, x86_64", "CPython 3.11.7 on Linux, x86_64"),
    ],
)
def test_redact_replaces_paths_and_names(text: str, expected: str, redactor: Redactor) -> None:
    assert redactor.redact(text) == expected


@needs_posix
def test_redactor_of_this_computer_knows_its_paths_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "anna nowak"
    (home / "pictures").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LOGNAME", "anna")
    monkeypatch.setattr("socket.gethostname", lambda: "annas-desk.example")
    monkeypatch.chdir(home / "pictures")
    given = f"Delete {home}/.cache/x; {home}/pictures/y of anna on annas-desk or annas-desk.example"
    found = build_redactor().redact_finding(Finding("name", given, advice=f"Free {home}"))
    assert found.value == "Delete ~/.cache/x; <current folder>/y of <user> on <host> or <host>"
    assert found.advice == "Free ~"


def test_redactor_without_home_and_folder_leaves_them_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", fail)
    assert build_redactor().redact("/home/x/y") == "…/y"
