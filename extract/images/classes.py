"""Choose the classes to use, and check that a head can be trained on them before anything is computed."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from base.errors import HeadstartError, UsageError
from base.terminal import format_count, format_list
from base.urls import Location
from features.schema import TRAIN, VALIDATION

Counts = Mapping[str, Mapping[str, int]]
"""Number of pictures by split and label; the split is empty without splits. A class may have 0 pictures in a split."""
NOT_CHOSEN = "a class that is not in --classes"


def parse_classes(text: str, names: Collection[str]) -> list[str]:
    """Return the labels in the option `--classes`, in Unicode form C like the labels of a scan.

    Args:
        text: labels separated by commas.
        names: names that a label may have; a comma or an outer space in one of them belongs to the name.
    """
    known, parts = set(names), unicodedata.normalize("NFC", text).split(",")
    most = 1 + max((name.count(",") for name in known), default=0)
    labels: list[str] = []
    while parts:
        joined = [",".join(parts[:count]) for count in range(min(most, len(parts)), 0, -1)]
        label = next((name for part in joined for name in (part, part.strip()) if name in known), parts[0].strip())
        labels += [label] if label else []
        del parts[: 1 + label.count(",")]
    return labels


def find_excluded(counts: Counts, chosen: Sequence[str], min_pictures: int) -> dict[str, str]:
    """Return the labels to leave out, each with the reason.

    Args:
        counts: number of pictures by split and label.
        chosen: labels to use; empty for all.
        min_pictures: classes with fewer training pictures are left out. If there are validation pictures, so are
            classes without any. 0 leaves none out.

    Raises:
        UsageError: a chosen label does not exist.
    """
    labels = sorted({label for found in counts.values() for label in found})
    if unknown := sorted(set(chosen).difference(labels)):
        expected, got = f"classes of the folder ({format_list(labels)})", format_list([*map(repr, unknown)])
        raise UsageError("--classes", expected, got, "Give labels separated by commas")
    excluded = dict.fromkeys(set(labels).difference(chosen) if chosen else (), NOT_CHOSEN)
    trained, validated = _count_training(counts), counts.get(VALIDATION, {})
    for label in labels if min_pictures else []:
        if trained.get(label, 0) < min_pictures:
            excluded.setdefault(label, f"a class with fewer than {format_count(min_pictures, 'training picture')}")
        elif any(validated.values()) and not validated.get(label):
            excluded.setdefault(label, "a class without validation pictures")
    return excluded


def check_classes(images: Location, counts: Counts, empty: Sequence[str] = ()) -> None:
    """Check everything that `train` requires of the classes, and report all problems at once.

    Args:
        images: the folder of pictures, for messages.
        counts: number of pictures by split and label.
        empty: paths of class folders without pictures, for messages.

    Raises:
        HeadstartError: there are fewer than two classes, or a class has no picture, only one without a validation
            split, or none for training or for validation.
    """
    trained, validated = _count_training(counts), counts.get(VALIDATION, {})
    has_validation = any(validated.values())
    filled = {label for label, count in trained.items() if count}
    others = {label for split, found in counts.items() if split not in ("", TRAIN) for label, n in found.items() if n}
    single = sorted(label for label in filled if trained[label] == 1) if not has_validation else []
    unvalidated = sorted(label for label in filled if not validated.get(label)) if has_validation else []
    problems = [
        _describe(empty, "class folder without pictures", "class folders without pictures"),
        _describe(single, "class with only one picture", "classes with only one picture"),
        _describe(unvalidated, "class without validation pictures", "classes without validation pictures"),
        _describe(sorted(others - filled), "class without training pictures", "classes without training pictures"),
        _describe_case(others - filled, filled),
    ]
    found = "; ".join(filter(None, problems))
    advice = "Add pictures of these classes"
    if not found and len(filled) < 2:
        found = f"one class, {next(iter(filled))!r}" if filled else "none"
        advice = "Add pictures of other classes, or leave out fewer classes"
    if not found:
        return
    if len(filled - {*single, *unvalidated}) > 1:
        advice = f"{advice}, or give --min-pictures {2 if single else 1} to leave them out"
    expected = "two or more classes, each with pictures for training and for validation"
    raise HeadstartError(images, expected, found, advice)


def check_labels(images: Location, counts: Counts, num_trained: int) -> None:
    """Check everything that `train` requires of pictures with several labels.

    Args:
        images: the folder of pictures, for messages.
        counts: number of pictures by split and label.
        num_trained: number of training pictures.

    Raises:
        HeadstartError: training pictures have fewer than two labels, one that they all have, or none of a label that
            other pictures have.
    """
    trained = _count_training(counts)
    filled = {label for label, count in trained.items() if count}
    others = {label for split, found in counts.items() if split not in ("", TRAIN) for label, n in found.items() if n}
    everywhere = sorted(label for label in filled if trained[label] == num_trained)
    problems = [
        _describe(sorted(others - filled), "label without training pictures", "labels without training pictures"),
        _describe(everywhere, "label of all training pictures", "labels of all training pictures"),
    ]
    found = "; ".join(filter(None, problems))
    if not found and len(filled) < 2:
        found = f"one label, {next(iter(filled))!r}" if filled else "none"
    if found:
        expected = "two or more labels, each of some but not all training pictures"
        raise HeadstartError(images, expected, found, "Correct the table, or give each picture one label")


def find_similar(labels: Collection[str]) -> list[str]:
    """Return the labels that differ from another one only in case, outer spaces or leading zeros, sorted."""
    key_of = {label: _fold(label) for label in labels}
    counts = Counter(key_of.values())
    return sorted(label for label, key in key_of.items() if counts[key] > 1)


def _fold(label: str) -> str:
    folded = label.strip().casefold()
    return folded.lstrip("0") if folded.isdigit() else folded


def _count_training(counts: Counts) -> Mapping[str, int]:
    return counts.get(TRAIN) or counts.get("") or {}


def _describe(names: Sequence[str], noun: str, plural: str) -> str:
    return f"{format_count(len(names), noun, plural)} ({format_list(names)})" if names else ""


def _describe_case(others: Collection[str], trained: Collection[str]) -> str:
    by_folded = {label.casefold(): label for label in trained}
    pairs = [f"{label!r} and {by_folded[label.casefold()]!r}" for label in others if label.casefold() in by_folded]
    return f"labels that differ only in case ({format_list(sorted(pairs))})" if pairs else ""
