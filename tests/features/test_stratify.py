"""Tests of iterative stratification."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from features.stratify import NO_LABEL, Unit, stratify

pytestmark = pytest.mark.unit


def make_units(label_sets: list[str]) -> list[Unit]:
    """Make a unit of one picture for each text, whose characters are its labels."""
    return [Unit(1, dict.fromkeys(labels or [NO_LABEL], 1)) for labels in label_sets]


def count_in_parts(units: list[Unit], parts: list[int]) -> dict[int, Counter[str]]:
    found: dict[int, Counter[str]] = {}
    for unit, part in zip(units, parts, strict=True):
        found.setdefault(part, Counter()).update(unit.labels)
    return found


def test_stratify_gives_each_part_its_share_of_every_label() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.random((1000, 5)) < [0.5, 0.3, 0.2, 0.1, 0.05]
    drawn[:, 4] &= drawn[:, 0]
    units = make_units(["".join(np.array(list("abcde"))[row]) for row in drawn])
    for shares in ((0.8, 0.2), (0.25,) * 4):
        found = count_in_parts(units, stratify(units, shares))
        for label in ["a", "b", "c", "d", "e", NO_LABEL]:
            total = sum(unit.labels.get(label, 0) for unit in units)
            for part, share in enumerate(shares):
                assert abs(found[part][label] - share * total) <= 0.04 * total + 1


def test_stratify_gives_both_parts_each_label_of_two_pictures() -> None:
    units = make_units(["ab", "ab", "b", "b", "b", "b", "b", "b", "c", "", "d", "d"])
    found = count_in_parts(units, stratify(units, (0.8, 0.2)))
    assert {*found[0]} >= {"a", "b", "d"}
    assert {*found[1]} >= {"a", "b", "d"}
    assert found[0]["c"] + found[1]["c"] == 1


def test_stratify_moves_a_label_whose_pictures_were_placed_by_rarer_labels() -> None:
    # x and y are placed first, and both put their picture with z into the part that lacks more pictures.
    units = [Unit(1, {"x": 1, "z": 1}), Unit(1, {"y": 1, "z": 1}), *make_units(["x", "y", "w", "w", "w", "w"])]
    parts = stratify(units, (0.5, 0.5))
    assert {parts[0], parts[1]} == {0, 1}
    assert {parts[0], parts[2]} == {parts[1], parts[3]} == {0, 1}


def test_stratify_keeps_a_label_of_one_picture_in_the_first_part() -> None:
    rng = np.random.default_rng(0)
    labels = [chr(ord("a") + number) for number in range(26)]
    for _ in range(50):
        units = make_units(["".join(sorted(set(rng.choice(labels, rng.integers(0, 5))))) for _ in range(30)])
        found = count_in_parts(units, stratify(units, (0.8, 0.2)))
        total = found[0] + found[1]
        assert all(found[0][label] for label, count in total.items() if count == 1)
        assert all(found[0][label] for label in total)


def test_stratify_weighs_a_group_by_its_pictures() -> None:
    units = [Unit(40, {"a": 40}), *(Unit(1, {"a": 1}) for _ in range(60))]
    parts = stratify(units, (0.6, 0.4))
    sizes = Counter({part: sum(u.size for u, p in zip(units, parts, strict=True) if p == part) for part in (0, 1)})
    assert sizes == {0: 60, 1: 40}


def test_stratify_without_labels_divides_by_size() -> None:
    units = make_units([""] * 10)
    assert Counter(stratify(units, (0.7, 0.3))) == {0: 7, 1: 3}
    assert stratify([], (0.7, 0.3)) == []
