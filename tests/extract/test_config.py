"""What follows from the options of stage one."""

from __future__ import annotations

from pathlib import Path

import pytest

from extract.config import ExtractConfig


@pytest.mark.parametrize(
    ("image_size", "asked", "expected"),
    [(75, 0, 32), (150, 0, 32), (151, 0, 31), (299, 0, 8), (512, 0, 2), (1024, 0, 1), (512, 32, 32), (150, 1, 1)],
)
def test_num_at_once_keeps_a_batchs_memory_unless_asked_for(image_size: int, asked: int, expected: int) -> None:
    config = ExtractConfig(Path("pictures"), Path("store"), image_size=image_size, batch_size=asked)
    assert config.num_at_once == expected


def test_cuts_are_those_between_commas_in_the_order_given() -> None:
    assert ExtractConfig(Path("pictures"), Path("store"), cut="mixed7, mixed5,mixed2").cuts == [
        "mixed7",
        "mixed5",
        "mixed2",
    ]
    assert ExtractConfig(Path("pictures"), Path("store")).cuts == ["mixed7"]
