"""Labels to check: pictures that may have a wrong label, or that belong to no class.

Each check looks for one kind of issue in the same evidence on the training and validation pictures: leave-one-out
probabilities, nearest neighbours, and distances to the classes. docs/how-to/labels.md has measurements.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from features.store import Example
from train_head.evaluation.neighbours import NEAR
from train_head.reduction.cache import LabelScores, Neighbours

MIN_DISTANCES = 20
"""Smallest number of pictures whose distances are compared with each other."""
FENCE = 3.0
"""Number of interquartile ranges above the upper quartile from which a value is far out (Tukey 1977)."""


class IssueKind(StrEnum):
    """Kind of an issue, in the order of the list."""

    COPY = "copy"
    """A file with the same bytes has another label."""
    WRONG_LABEL = "wrong_label"
    """Another class contradicts the label, by the rule of confident learning."""
    NEAR_DUPLICATE = "near_duplicate"
    """A picture that is nearly the same has another label."""
    OUTLIER = "outlier"
    """The picture is far from all classes."""


@dataclass(frozen=True)
class LabelIssue:
    """Picture whose label should be checked."""

    path: str
    label: str
    """Given label."""
    suggested: str
    """Label that the evidence suggests; empty for an outlier."""
    kind: IssueKind
    score: float
    """The higher, the more likely an error. `copy`: 1. `wrong_label`: probability of the suggested label.
    `near_duplicate`: similarity to `other`, from 0 to 1. `outlier`: distance to the nearest class, divided by the
    median distance."""
    other: str = ""
    """Path of the same or nearly the same picture that has the suggested label."""


@dataclass(frozen=True)
class Evidence:
    """Evidence on the labels of n different pictures."""

    pictures: Sequence[Example]
    """One example for each content, in the order of the content hashes."""
    files: Sequence[Example]
    """Examples of all files, with the copies."""
    classes: Sequence[str]
    neighbours: Neighbours | None = None
    """Neighbours of the pictures; None if they were not searched for."""
    scores: LabelScores | None = None
    """Scores of the pictures; None if they were not computed."""

    def list_files(self, rows: Iterable[int]) -> list[tuple[Example, int]]:
        """List the files that show the pictures of some rows, each with its row."""
        row_of = {self.pictures[row].content_hash: row for row in rows}
        return [(file, row_of[file.content_hash]) for file in self.files if file.content_hash in row_of]


@dataclass(frozen=True)
class CheckedLabels:
    """Result of all checks."""

    issues: list[LabelIssue] = field(default_factory=list)
    """At most one for each file; by kind, then by descending score."""
    num_pictures: int = 0
    """Number of different pictures whose labels were compared with leave-one-out probabilities."""
    accuracy: float | None = None
    """Share of these labels that are the most probable class; None if there are none."""
    limits: list[str] = field(default_factory=list)
    """What was not checked, with the reason, as noun phrases."""


class Check(Protocol):
    """Search for one kind of issue."""

    def find(self, evidence: Evidence) -> list[LabelIssue]:
        """Find the issues of this kind, in any order."""


class Copies:
    """Files with the same bytes and different labels. The first other label of the content is suggested."""

    def find(self, evidence: Evidence) -> list[LabelIssue]:
        """Find the issues of this kind."""
        groups: dict[bytes, list[Example]] = {}
        for file in evidence.files:
            groups.setdefault(file.content_hash, []).append(file)
        return [
            LabelIssue(file.path, file.label, others[0].label, IssueKind.COPY, 1.0, others[0].path)
            for group in groups.values()
            for file in group
            if (others := [other for other in group if other.label != file.label])
        ]


class ContradictedLabels:
    """Labels that leave-one-out probabilities contradict."""

    def find(self, evidence: Evidence) -> list[LabelIssue]:
        """Find the issues of this kind."""
        if evidence.scores is None:
            return []
        suggested, probability = evidence.scores.suggested, evidence.scores.probability
        return [
            LabelIssue(
                file.path,
                file.label,
                evidence.classes[suggested[row]],
                IssueKind.WRONG_LABEL,
                float(probability[row]),
            )
            for file, row in evidence.list_files(np.flatnonzero(suggested >= 0).tolist())
        ]


class NearDuplicates:
    """Pictures that are nearly the same as one with another label.

    Of two such pictures, the one whose label is less probable is listed.
    """

    def find(self, evidence: Evidence) -> list[LabelIssue]:
        """Find the issues of this kind."""
        found: dict[int, LabelIssue] = {}
        for first, second, similarity in self._list_pairs(evidence):
            row, other = first, second
            if evidence.scores and evidence.scores.given[first] > evidence.scores.given[second]:
                row, other = second, first
            if row not in found or similarity > found[row].score:
                picture, similar = evidence.pictures[row], evidence.pictures[other]
                found[row] = LabelIssue(
                    picture.path, picture.label, similar.label, IssueKind.NEAR_DUPLICATE, similarity, similar.path
                )
        return list(found.values())

    def _list_pairs(self, evidence: Evidence) -> list[tuple[int, int, float]]:
        """List the rows of two pictures with different labels and their similarity, which is at least `NEAR`."""
        neighbours = evidence.neighbours
        if neighbours is None:
            return []
        starts, columns = np.nonzero(neighbours.similarities >= NEAR)
        ends, similarities = neighbours.rows[starts, columns], neighbours.similarities[starts, columns]
        pairs = [*zip(starts.tolist(), ends.tolist(), similarities.tolist(), strict=True)]
        pairs += [(row, first, 1.0) for row, first in enumerate(neighbours.firsts.tolist()) if first != row]
        labels = [picture.label for picture in evidence.pictures]
        return [pair for pair in pairs if labels[pair[0]] != labels[pair[1]]]


class Outliers:
    """Pictures whose distance to the nearest class is far out."""

    def find(self, evidence: Evidence) -> list[LabelIssue]:
        """Find the issues of this kind; the distances in the scores are squared."""
        if evidence.scores is None or not (rows := find_far(evidence.scores.distances)):
            return []
        distances = evidence.scores.distances
        median = float(np.nanmedian(distances))
        return [
            LabelIssue(file.path, file.label, "", IssueKind.OUTLIER, float(np.sqrt(distances[row] / median)))
            for file, row in evidence.list_files(rows)
        ]


CHECKS: tuple[Check, ...] = (Copies(), ContradictedLabels(), NearDuplicates(), Outliers())
"""All checks. A file with issues of several kinds is listed with the first."""


def find_issues(evidence: Evidence) -> list[LabelIssue]:
    """Find the issues of all kinds, at most one for each file, sorted by kind and then by descending score."""
    found: dict[str, LabelIssue] = {}
    for check in CHECKS:
        for issue in sorted(check.find(evidence), key=lambda issue: (-issue.score, issue.path)):
            found.setdefault(issue.path, issue)
    return list(found.values())


def find_far(distances: NDArray[np.floating]) -> list[int]:
    """Return the rows whose distances are far out, see `FENCE`; the logarithms of distances are compared.

    Args:
        distances: (n,) distances, 0 or more; NaN if unknown.
    """
    known = np.isfinite(distances) & (distances > 0)
    if np.sum(known) < MIN_DISTANCES:
        return []
    logarithms = np.log(np.where(known, distances, 1.0))
    lower, upper = np.quantile(logarithms[known], [0.25, 0.75])
    return np.flatnonzero(known & (logarithms > upper + FENCE * (upper - lower))).tolist()
