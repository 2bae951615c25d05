"""Table of the labels to check, label_issues.csv, which is written with the report."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, fields, replace
from pathlib import Path

from base.errors import HeadstartError
from base.files import read_regular_file
from train_head.evaluation.label_issues import IssueKind, LabelIssue
from train_head.runs.record import LABEL_ISSUES_FILE
from train_head.runs.tables import format_csv

_COLUMNS = [field.name for field in fields(LabelIssue)]
_MAX_BYTES = 2**29


def format_label_issues(issues: Sequence[LabelIssue]) -> bytes:
    """Format label_issues.csv."""
    return format_csv([_COLUMNS, *(astuple(replace(each, score=float(f"{each.score:.6g}"))) for each in issues)])


def read_label_issues(folder: Path) -> list[LabelIssue]:
    """Read the labels to check from the folder of a run.

    Raises:
        HeadstartError: the run has no report, one of an earlier version, or an invalid table.
    """
    path = folder / LABEL_ISSUES_FILE
    try:
        text = read_regular_file(path, _MAX_BYTES).decode("utf-8", "surrogateescape")
        columns, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        if columns != _COLUMNS:
            raise ValueError("unknown columns")
        return [
            LabelIssue(image, label, suggested, IssueKind(kind), float(score), other)
            for image, label, suggested, kind, score, other in rows
        ]
    except (OSError, ValueError, csv.Error) as error:
        got = (isinstance(error, OSError) and error.strerror) or str(error)
        raise HeadstartError(path, "the labels to check", got, "Write the report again") from error
