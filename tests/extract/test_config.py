"""Values that `ExtractConfig` derives from its options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from extract.config import MAX_PIXELS, ExtractConfig
from train_head.export.config import ExportConfig
from train_head.predict.config import PredictConfig

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("image_size", "batch_size", "expected"),
    [(75, 0, 32), (150, 0, 32), (151, 0, 31), (299, 0, 8), (512, 0, 2), (1024, 0, 1), (512, 32, 32), (150, 1, 1)],
)
def test_effective_batch_size_depends_on_the_image_size_unless_it_is_given(
    image_size: int, batch_size: int, expected: int
) -> None:
    config = ExtractConfig(Path("pictures"), Path("store"), image_size=image_size, batch_size=batch_size)
    assert config.effective_batch_size == expected


def test_cuts_with_commas_are_listed_in_the_given_order() -> None:
    cuts = ExtractConfig(Path("pictures"), Path("store"), cut="mixed7, mixed5,mixed2").cuts
    assert cuts == ["mixed7", "mixed5", "mixed2"]
    assert ExtractConfig(Path("pictures"), Path("store")).cuts == ["mixed7"]


@pytest.mark.parametrize(("num_images", "allowed"), [(1, 1), (100, 1), (101, 2), (250, 3), (1000, 10)])
def test_count_bad_allowed_is_one_percent_rounded_up_or_zero_if_strict(num_images: int, allowed: int) -> None:
    config = ExtractConfig(Path("pictures"), Path("store"))
    assert config.count_bad_allowed(num_images) == allowed
    assert replace(config, strict=True).count_bad_allowed(num_images) == 0
    assert replace(config, max_bad=0).count_bad_allowed(num_images) == 0
    assert replace(config, max_bad=1).count_bad_allowed(num_images) == num_images


def test_max_pixels_has_the_same_default_in_every_command() -> None:
    assert PredictConfig([], Path("model.keras")).max_pixels == MAX_PIXELS
    assert ExportConfig(Path("run"), Path("out")).max_pixels == MAX_PIXELS
    assert ExtractConfig(Path("pictures"), Path("store")).max_pixels == MAX_PIXELS
