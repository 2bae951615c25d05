"""What follows from the options of stage one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from extract.config import MAX_PIXELS, ExtractConfig
from train_head.config import ExportConfig, PredictConfig


@pytest.mark.parametrize(
    ("image_size", "asked", "expected"),
    [(75, 0, 32), (150, 0, 32), (151, 0, 31), (299, 0, 8), (512, 0, 2), (1024, 0, 1), (512, 32, 32), (150, 1, 1)],
)
def test_effective_batch_size_keeps_a_batchs_memory_unless_asked_for(
    image_size: int, asked: int, expected: int
) -> None:
    config = ExtractConfig(Path("pictures"), Path("store"), image_size=image_size, batch_size=asked)
    assert config.effective_batch_size == expected


def test_cuts_are_those_between_commas_in_the_order_given() -> None:
    assert ExtractConfig(Path("pictures"), Path("store"), cut="mixed7, mixed5,mixed2").cuts == [
        "mixed7",
        "mixed5",
        "mixed2",
    ]
    assert ExtractConfig(Path("pictures"), Path("store")).cuts == ["mixed7"]


@pytest.mark.parametrize(("num_images", "allowed"), [(1, 1), (100, 1), (101, 2), (250, 3), (1000, 10)])
def test_bad_pictures_allowed_are_one_in_a_hundred_rounded_up_and_none_when_strict(
    num_images: int, allowed: int
) -> None:
    config = ExtractConfig(Path("pictures"), Path("store"))
    assert config.count_bad_allowed(num_images) == allowed
    assert replace(config, strict=True).count_bad_allowed(num_images) == 0
    assert replace(config, max_bad=0).count_bad_allowed(num_images) == 0
    assert replace(config, max_bad=1).count_bad_allowed(num_images) == num_images


def test_both_stages_allow_pictures_of_the_same_size() -> None:
    assert PredictConfig([], Path("model.keras")).max_pixels == MAX_PIXELS
    assert ExportConfig(Path("run"), Path("out")).max_pixels == MAX_PIXELS
    assert ExtractConfig(Path("pictures"), Path("store")).max_pixels == MAX_PIXELS
