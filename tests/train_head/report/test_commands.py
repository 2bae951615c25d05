from __future__ import annotations

from pathlib import Path

import pytest

from train_head.report.commands import shorten

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("path", "shortened"),
    [
        ("here/work/run", "work/run"),
        ("pictures", "../pictures"),
        ("pictures/cats", "../pictures/cats"),
        ("../far", "far"),
        ("here", "here"),
    ],
)
def test_shorten_keeps_paths_in_and_beside_the_working_folder(
    path: str, shortened: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home/here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "home/here")
    assert shorten(tmp_path / "home" / path) == Path(shortened)
