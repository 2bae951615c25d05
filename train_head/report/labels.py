"""Labels to check in a report: the comparison of all pictures, and what the report shows of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from base.terminal import Console, format_count
from train_head.evaluation.label_check import check_labels
from train_head.evaluation.label_issues import CheckedLabels
from train_head.evaluation.neighbours import list_contents, load_neighbours
from train_head.evaluation.pooled import PooledFeatures
from train_head.report.duplicates import Duplicates, find_duplicates
from train_head.report.sources import Sources

MAX_ISSUES = 500
"""Largest number of labels to check that a report lists; label_issues.csv has all."""
NUM_ISSUES_SHOWN = 24
"""Largest number of them with a thumbnail."""


@dataclass(frozen=True)
class Comparison:
    """Result of comparing the pictures of a run with each other and with their labels."""

    duplicates: Duplicates
    labels: CheckedLabels


def compare_pictures(sources: Sources, console: Console) -> Comparison:
    """Compare the training and validation pictures with each other and with their labels.

    Raises:
        FeatureStoreError: the features cannot be read.
    """
    split = sources.split
    contents = list_contents([*split.train, *split.validation])
    pooled = PooledFeatures(sources.store, contents)
    neighbours = load_neighbours(pooled, console)
    return Comparison(find_duplicates(split, contents, neighbours), check_labels(split, pooled, neighbours, console))


def describe_labels(checked: CheckedLabels) -> dict[str, Any]:
    """Describe the labels to check, ready for JSON.

    Returns:
        `issues` (at most `MAX_ISSUES` of `num_issues`), `num_by_kind`, `num_pictures`, `accuracy` and `limits`, as in
        `CheckedLabels`.
    """
    return {
        "issues": [asdict(issue) for issue in checked.issues[:MAX_ISSUES]],
        "num_issues": len(checked.issues),
        "num_by_kind": dict(Counter(issue.kind.value for issue in checked.issues)),
        "num_pictures": checked.num_pictures,
        "accuracy": checked.accuracy,
        "limits": checked.limits,
    }


def list_shown(labels: Mapping[str, Any]) -> list[str]:
    """List the paths of the pictures with a thumbnail."""
    shown = labels["issues"][:NUM_ISSUES_SHOWN]
    return [path for issue in shown for path in (issue["path"], issue["other"]) if path]


def log_label_issues(num_issues: int, console: Console) -> None:
    """Print how many labels to check the report lists, if there are any."""
    if num_issues:
        console.info(f"{format_count(num_issues, 'label')} to check: see the report, section Labels to check")
