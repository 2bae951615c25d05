from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from base.options import list_options
from train_head.config import HeadConfig
from train_head.report.commands import _name_run, shorten

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


@pytest.mark.parametrize(
    ("name", "options", "change", "expected"),
    [
        ("run", {}, {"epochs": 40}, "run-epochs40"),
        ("run-dropout0.5", {"dropout": 0.5}, {"epochs": 40}, "run-epochs40-dropout0.5"),
        ("run-poolavg-dropout0.2", {"pool": "avg", "dropout": 0.2}, {"dropout": 0.5}, "run-poolavg-dropout0.5"),
        ("run-epochs9-dropout0.5", {"dropout": 0.5}, {"epochs": 9}, "run-epochs9-epochs9-dropout0.5"),
        ("my-seedlings", {}, {"epochs": 40}, "my-seedlings-epochs40"),
    ],
)
def test_folder_of_a_suggested_training_has_the_name_that_make_gives_it(
    name: str, options: dict[str, Any], change: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_MAKE_TRAIN", "WEIGHTS PRESET EPOCHS DROPOUT")
    defaults = {option.name: option.default for option in list_options(HeadConfig)}
    assert _name_run(Path("work", name), change, {**defaults, **options}) == f"work/{expected}"
