"""The table of labels to check: written, read again, and refused if it is missing or invalid."""

from __future__ import annotations

from pathlib import Path

import pytest

from base.errors import HeadstartError
from tests.errors import raises
from train_head.evaluation.label_issues import IssueKind, LabelIssue
from train_head.runs.label_table import format_label_issues, read_label_issues
from train_head.runs.record import LABEL_ISSUES_FILE

pytestmark = pytest.mark.unit


def test_label_issues_are_read_as_they_were_written(tmp_path: Path) -> None:
    issues = [
        LabelIssue('cats/a "b",\n\udce9.jpg', "cats", "dogs", IssueKind.WRONG_LABEL, 0.984375),
        LabelIssue("dogs/1.jpg", "dogs", "cats", IssueKind.NEAR_DUPLICATE, 0.5, "cats/ü.jpg"),
        LabelIssue("dogs/2.jpg", "dogs", "", IssueKind.OUTLIER, 2.5),
    ]
    for written in (issues, []):
        (tmp_path / LABEL_ISSUES_FILE).write_bytes(format_label_issues(written))
        assert read_label_issues(tmp_path) == written


@pytest.mark.parametrize("data", [None, b"", b"path,label\n", format_label_issues([]) + b"a,b,c,unknown,1,\n"])
def test_missing_or_invalid_label_issues_are_an_error(data: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / LABEL_ISSUES_FILE
    if data is not None:
        path.write_bytes(data)
    with raises(HeadstartError, where=path):
        read_label_issues(tmp_path)
