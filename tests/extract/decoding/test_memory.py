"""Arrays of decoded pictures are used again, and never by two pictures at a time."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from extract.decoding.decode import decode_image, decode_within_budget
from extract.decoding.memory import Budget, PixelMemory
from extract.decoding.read import UndecodableImageError
from extract.pixels import resize_pixels
from tests.inputs.makers import cut, draw, save_turned
from tests.pictures import encode
from tests.systems import HANG_S

pytestmark = pytest.mark.unit


def test_lend_gives_a_returned_array_again_unless_it_is_too_small() -> None:
    memory = PixelMemory()
    with memory.lend(100) as first, memory.lend(100) as second:
        assert first is not second
    with memory.lend(60) as again:
        assert again is first
    with memory.lend(101) as larger:
        assert larger.size == 101
    with memory.lend(100) as again:
        assert again is larger


def test_lend_keeps_no_array_beyond_the_limit() -> None:
    memory = PixelMemory(max_bytes=150)
    with memory.lend(100) as first, memory.lend(100):
        pass
    with memory.lend(100) as again, memory.lend(100) as other:
        assert (again is first) != (other is first)


def test_decode_with_a_memory_in_several_threads_gives_the_same_pixels() -> None:
    sizes = [(40 + 7 * number, 90 - 5 * number) for number in range(12)]
    files = [encode(draw("cats", size), "JPEG") for size in sizes] + [save_turned(number) for number in range(1, 9)]
    files.append(encode(draw("dogs"), "PNG"))
    memory = PixelMemory()

    def resize(data: bytes) -> object:
        with decode_within_budget(data, memory=memory) as pixels:
            return resize_pixels(pixels, 75)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(resize, files * 3))
    np.testing.assert_array_equal(found, [resize_pixels(decode_image(data), 75) for data in files] * 3)


def test_decode_damaged_picture_returns_its_array() -> None:
    memory = PixelMemory()
    data = cut(lambda: save_turned(1), 0.9)
    with pytest.raises(UndecodableImageError), decode_within_budget(data, memory=memory):
        pass
    with memory.lend(1) as first, memory.lend(1) as second:
        assert first.size > 1
        assert second.size == 1


def test_budget_of_several_threads_is_not_exceeded_unless_by_one_alone() -> None:
    budget, held, most = Budget(100), list[int](), list[list[int]]()

    def hold(amount: int) -> None:
        with budget.reserve(amount):
            held.append(amount)
            time.sleep(0.001)
            most.append(held.copy())
            held.remove(amount)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hold, [60, 40, 30, 150, 20, 70, 100, 10] * 3))
        with budget.reserve(60):
            pool.submit(hold, 40).result(HANG_S)
    assert all(sum(found) <= 100 or found == [150] for found in most)
