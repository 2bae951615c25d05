"""Iterative stratification: divide pictures with several labels so that each part has its share of every label.

Source: Sechidis, Tsoumakas and Vlahavas 2011, "On the stratification of multi-label data", algorithm 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

NO_LABEL = ""
"""Replaces the missing label of a picture without labels, so that these pictures are divided too."""


class Unit(NamedTuple):
    """Pictures that stay together: the copies of a picture, or a group of near-duplicates."""

    size: int
    """Number of pictures."""
    labels: Mapping[str, int]
    """Number of pictures with each label; `NO_LABEL` for pictures without labels."""


def stratify(units: Sequence[Unit], shares: Sequence[float]) -> list[int]:
    """Divide units into parts.

    The label with the fewest remaining pictures is divided first, because later choices can correct the frequent ones.
    Each of its units goes to the part that lacks most pictures with this label, in a tie to the one that lacks most
    pictures of all.

    The first of two parts, training, gets every label: a unit with a label that no other unit has is placed
    there first. At the end, a label of two or more units that is in one part only gets a second part; from the first
    part, only if a unit can be moved without taking another label from one of its two parts.

    Args:
        units: the units; earlier ones are placed first.
        shares: share of the pictures for each part; the sum is 1.

    Returns:
        The number of the part of each unit.
    """
    units_of: dict[str, list[int]] = {}
    totals: Counter[str] = Counter()
    for number, unit in enumerate(units):
        totals.update(unit.labels)
        for label in unit.labels:
            units_of.setdefault(label, []).append(number)
    names = sorted(totals)
    index_of = {label: index for index, label in enumerate(names)}
    wanted = {label: _divide(totals[label], len(units_of[label]), shares) for label in names}
    wanted_size = _divide(sum(unit.size for unit in units), len(units), shares)
    remaining = np.array([totals[label] for label in names], np.int64)
    done = np.iinfo(remaining.dtype).max
    part_of = [-1] * len(units)

    def place(number: int, part: int) -> None:
        part_of[number] = part
        wanted_size[part] -= units[number].size
        for label, count in units[number].labels.items():
            wanted[label][part] -= count
            remaining[index_of[label]] -= count

    if len(shares) == 2:
        for number in sorted({numbers[0] for numbers in units_of.values() if len(numbers) == 1}):
            place(number, 0)
    for _ in names:
        rarest = int(remaining.argmin())
        lacking = wanted[names[rarest]]
        for number in units_of[names[rarest]]:
            if part_of[number] < 0:
                place(number, max(range(len(shares)), key=lambda part: (lacking[part], wanted_size[part])))
        remaining[rarest] = done
    _spread(units, units_of, part_of, wanted_size)
    return part_of


def _divide(num_pictures: int, num_units: int, shares: Sequence[float]) -> list[float]:
    """Return the wanted number of pictures for each part; of two parts, each gets one of two or more units."""
    wanted = [share * num_pictures for share in shares]
    if len(shares) == 2 and num_units > 1:
        smaller = min(max(min(wanted), 1.0), num_pictures / 2)
        wanted = [smaller if goal == min(wanted) else num_pictures - smaller for goal in wanted]
    return wanted


def _spread(
    units: Sequence[Unit], units_of: Mapping[str, Sequence[int]], part_of: list[int], lacking: Sequence[float]
) -> None:
    """Move units of labels that are in one part only, although they have several units."""
    num_in = {label: Counter(part_of[number] for number in numbers) for label, numbers in units_of.items()}

    def stays_spread(label: str, source: int) -> bool:
        return num_in[label][source] > 1 or sum(count > 0 for count in num_in[label].values()) > 2

    for label in sorted(units_of):
        if len(units_of[label]) < 2 or sum(count > 0 for count in num_in[label].values()) > 1:
            continue
        source = part_of[units_of[label][0]]
        others = [part for part in range(len(lacking)) if part != source]
        movable = [
            number
            for number in units_of[label]
            if source > 0 or all(stays_spread(name, source) for name in units[number].labels)
        ]
        if not others or not movable:
            continue
        moved = min(movable, key=lambda number: units[number].size)
        target = 0 if source else max(others, key=lambda part: lacking[part])
        part_of[moved] = target
        for name in units[moved].labels:
            num_in[name][source] -= 1
            num_in[name][target] += 1
