"""Parts of a folder: each path is in exactly one of them."""

from __future__ import annotations

from collections import Counter

import pytest

from features.parts import Parts, find_part, hash_path

pytestmark = pytest.mark.unit

PATHS = [f"train/{label}/{number:04}.jpg" for label in ("cats", "dögs", "\udcff") for number in range(2000)]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 100])
def test_parts_hold_each_path_exactly_once(count: int) -> None:
    parts = [Parts(frozenset({number}), count) for number in range(1, count + 1)]
    for path in PATHS[::10]:
        assert [part.holds(path) for part in parts].count(True) == 1


@pytest.mark.parametrize("count", [1, 1000, 999_999])
def test_find_part_returns_a_number_from_one_to_the_count(count: int) -> None:
    assert all(1 <= find_part(path, count) <= count for path in PATHS)


def test_parts_have_about_equal_sizes() -> None:
    sizes = Counter(find_part(path, 16) for path in PATHS)
    assert len(sizes) == 16
    assert all(abs(size - len(PATHS) / 16) < 4 * (len(PATHS) / 16) ** 0.5 for size in sizes.values())


def test_parts_follow_one_another_in_the_order_of_reading() -> None:
    numbers = [find_part(path, 5) for path in sorted(PATHS, key=hash_path)]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("text", ["0/16", "1/1", "3/16", "16/16", "1,2,5/16"])
def test_parts_parse_is_the_inverse_of_str(text: str) -> None:
    assert str(Parts.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0/0",
        "0,1/16",
        "17/16",
        "3/0",
        "3",
        "/",
        "3/16 ",
        "-1/16",
        "1/0x10",
        "03/16",
        "2,1/16",
        "1,1/16",
        "१/१६",
        "1/1\n",
    ],
)
def test_parts_parse_refuses_other_texts(text: str) -> None:
    with pytest.raises(ValueError, match="parts"):
        Parts.parse(text)


def test_parts_list_missing_returns_the_numbers_in_order() -> None:
    assert Parts.parse("1,2,5/6").list_missing() == [3, 4, 6]
