"""An export of an unchanged run with the same options is kept; any other one is written."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from base.terminal import Console
from tests.train_head.export.conftest import Exported
from train_head.export.config import Dtype, ExportConfig, Format
from train_head.export.earlier import find_earlier_export
from train_head.export.write import export_run
from train_head.runs.read import Run

KERAS = [Format.KERAS]


def test_export_run_again_returns_the_same_result_and_writes_nothing(
    exported: Exported, early_run: Path, tmp_path: Path, quiet: Console
) -> None:
    out = shutil.copytree(exported.out, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    # The folders of pictures and store are not needed.
    again = export_run(ExportConfig(early_run, out, store="missing", images="missing"), quiet)
    assert again == replace(exported.result, files=[out / path.name for path in exported.result.files])
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": Dtype.INT8},
        {"factored": True},
        {"outlier_score": True},
        {"threshold": "0.4"},
        {"check": None},
        {"max_pixels": 10**6},
    ],
    ids=str,
)
def test_find_earlier_export_with_another_option_is_none(
    change: dict[str, Any], exported: Exported, early_run: Path
) -> None:
    config = ExportConfig(early_run, exported.out)
    assert find_earlier_export(Run(early_run), config, KERAS) == exported.result
    assert find_earlier_export(Run(early_run), replace(config, **change), KERAS) is None
    assert find_earlier_export(Run(early_run), config, [*KERAS, Format.ONNX]) is None


def test_find_earlier_export_of_another_run_or_version_or_with_a_missing_file_is_none(
    exported: Exported, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ExportConfig(run, shutil.copytree(exported.out, tmp_path / "out"))
    same, other = Run(run), Run(run)
    # As after `train --overwrite --false-alarms 0.2`, which fits the same head.
    other.record = replace(other.record, digest="0" * 64)
    assert find_earlier_export(same, config, KERAS)
    assert find_earlier_export(other, config, KERAS) is None
    (config.out / "README.md").unlink()
    assert find_earlier_export(same, config, KERAS) is None
    monkeypatch.setattr("train_head.export.earlier.find_version", lambda _: "99.0")
    assert find_earlier_export(same, replace(config, out=exported.out), KERAS) is None
