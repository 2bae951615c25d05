"""Views: the picture itself, and augmentations that depend only on content, number and seed."""

from __future__ import annotations

import functools
import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from extract.decoding.convert import Pixels
from extract.pixels import prepare_pixels
from extract.views import compile_views, derive_seed, describe_views, list_views
from tests.pictures import draw_picture

SIZE = 75
ONE, OTHER = (hashlib.sha256(name).digest() for name in (b"one", b"other"))
PICTURE: Pixels = np.asarray(draw_picture("cats", 1))
DRAWS = range(1, 41)
compile_once = functools.cache(compile_views)


def draw_views(pixels: Pixels) -> list[NDArray[np.float32]]:
    """Return forty augmentations of a picture."""
    return list(compile_once(SIZE, 0)(pixels, ONE, DRAWS).values())


def test_view_0_equals_prepare_pixels_bit_for_bit() -> None:
    found = compile_once(SIZE, 0)(PICTURE, ONE, [0, 1])
    np.testing.assert_array_equal(found[0], prepare_pixels(PICTURE, SIZE))
    assert (found[1].shape, found[1].dtype) == (found[0].shape, found[0].dtype)
    assert np.abs(found[1] - found[0]).mean() > 0.05


def test_views_with_the_same_seed_are_equal_in_other_calls_compilations_and_threads() -> None:
    prepare = compile_once(SIZE, 5)
    expected = prepare(PICTURE, ONE, range(4))

    alone, backwards = prepare(PICTURE, ONE, [2]), prepare(PICTURE, ONE, [3, 2, 1])
    again = compile_views(SIZE, 5)(PICTURE, ONE, range(4))
    with ThreadPoolExecutor(4) as pool:
        threads = list(pool.map(lambda _: prepare(PICTURE, ONE, range(4)), range(12)))

    np.testing.assert_array_equal(alone[2], expected[2])
    assert [list(alone), list(backwards)] == [[2], [3, 2, 1]]
    for found in (backwards, again, *threads):
        for view, prepared in found.items():
            np.testing.assert_array_equal(prepared, expected[view])


def test_views_with_another_seed_content_or_number_differ() -> None:
    first, second = compile_once(SIZE, 0), compile_once(SIZE, 1)
    drawn = [
        first(PICTURE, ONE, [1])[1],
        first(PICTURE, ONE, [2])[2],
        first(PICTURE, OTHER, [1])[1],
        second(PICTURE, ONE, [1])[1],
    ]
    for number, one in enumerate(drawn):
        for other in drawn[number + 1 :]:
            assert np.abs(one - other).mean() > 0.01


def test_views_stay_in_range_and_repeat_the_edges() -> None:
    extremes = np.random.default_rng(2).choice([0, 255], (64, 90, 3)).astype(np.uint8)
    drawn = np.stack(draw_views(extremes))
    assert -1 <= drawn.min() < -0.9
    assert 0.9 < drawn.max() <= 1
    # A white picture stays white only if it is filled with its own edges.
    np.testing.assert_array_equal(draw_views(np.full((64, 90, 3), 255, np.uint8)), np.ones((40, SIZE, SIZE, 3)))


def test_views_are_mirrored_in_about_half_of_the_cases() -> None:
    left_half_is_white = np.zeros((SIZE, SIZE, 3), np.uint8)
    left_half_is_white[:, : SIZE // 2] = 255
    mirrored = [view[:, SIZE // 2 :].mean() > view[:, : SIZE // 2].mean() for view in draw_views(left_half_is_white)]
    assert 10 <= sum(mirrored) <= 30


def test_views_are_rotated_in_both_directions_by_up_to_40_degrees() -> None:
    lower_half_is_white = np.zeros((SIZE, SIZE, 3), np.uint8)
    lower_half_is_white[SIZE // 2 :] = 255
    slopes = []
    for view in draw_views(lower_half_is_white):
        heights = (view[..., 0] > 0).sum(axis=0)
        assert heights[SIZE // 2] > 0, "never upside down"
        slopes.append(float(heights[SIZE // 2 + 12] - heights[SIZE // 2 - 12]) / 24)
    degrees = np.degrees(np.arctan(slopes))
    assert degrees.min() < -20
    assert degrees.max() > 20
    # The shear after the rotation steepens a line of 40 degrees to 45.
    assert np.abs(degrees).max() < 47


def test_views_are_shifted_and_zoomed_by_up_to_a_fifth() -> None:
    rows, columns = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    disc = (np.hypot(rows, columns) < 10)[..., None] * np.full(3, 255, np.uint8)
    inside = [view[..., 0] > 0 for view in draw_views(disc.astype(np.uint8))]
    areas = np.array([pixels.sum() for pixels in inside]) / (np.hypot(rows, columns) < 10).sum()
    assert 0.6 < areas.min() < 0.85
    assert 1.15 < areas.max() < 1.7
    for offsets in (rows, columns):
        shifts = np.array([offsets[pixels].mean() for pixels in inside])
        assert shifts.min() < -5
        assert shifts.max() > 5
        assert np.abs(shifts).max() < 0.2 * SIZE * 1.25 * 1.25


@pytest.mark.unit
@pytest.mark.parametrize(
    ("split", "views"), [("", [0, 1, 2]), ("train", [0, 1, 2]), ("validation", [0]), ("test", [0])]
)
def test_list_views_contains_augmentations_only_of_training_pictures(split: str, views: list[int]) -> None:
    assert list(list_views(split, 3)) == views
    assert list(list_views(split, 1)) == [0]


@pytest.mark.unit
def test_derive_seed_is_fixed_and_differs_by_view_seed_and_content() -> None:
    assert derive_seed(ONE, 1, 12).dtype == np.int32
    expected = hashlib.sha256(ONE + b"view 1 seed 12").digest()[:8]
    assert derive_seed(ONE, 1, 12).astype("<i4").tobytes() == expected
    seeds = {
        derive_seed(content, view, seed).tobytes()
        for content in (ONE, OTHER)
        for view in range(1, 25)
        for seed in range(25)
    }
    assert len(seeds) == 2 * 24 * 25


@pytest.mark.unit
def test_describe_views_returns_the_stored_recipe_with_the_seed() -> None:
    # Part of the fingerprint of existing stores.
    assert describe_views(7) == "flip, rotation 40 degrees, shift 0.2, shear 0.2, zoom 0.2, edges repeated; seed 7"
