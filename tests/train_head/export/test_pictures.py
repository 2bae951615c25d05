"""Loading of the pictures that an export is checked on: order, content, batches, and pictures that are gone."""

from __future__ import annotations

import hashlib
import io
import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from base.errors import HeadstartError
from base.terminal import Console
from extract.decoding.decode import decode_image
from extract.decoding.policy import DecodePolicy
from extract.pixels import resize_pixels
from features.store import Example
from tests.errors import raises
from tests.pictures import draw_picture, encode, fill_folder
from tests.train_head.synthetic import TINY_SIZE, make_example
from train_head.export.pictures import NUM_RAW, PictureGoneError, Pictures


def load_pictures(
    folder: Path, examples: Sequence[Example], console: Console, image_size: int = TINY_SIZE, **options: Any
) -> Pictures:
    pictures = Pictures(folder, examples, image_size, io.BytesIO(), **options)
    pictures.load(console)
    return pictures


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of nine pictures of 90 x 80 pixels and one of 40 x 21, not to be changed."""
    folder = tmp_path_factory.mktemp("pictures")
    fill_folder(folder, {"cats": 5, "dogs": 4})
    (folder / "dogs/small.png").write_bytes(encode(draw_picture("dogs", 77, (40, 21))))
    return folder


@pytest.fixture(scope="session")
def examples(folder: Path) -> list[Example]:
    return [
        make_example(str(file.relative_to(folder)), hashlib.sha256(file.read_bytes()).digest())
        for file in sorted(folder.rglob("*.*"))
    ]


def test_load_decodes_by_the_policy_of_the_store(tmp_path: Path, quiet: Console) -> None:
    gray = np.asarray(draw_picture("cats", 1).convert("L"))
    data = encode(Image.fromarray(gray.astype(np.uint16) << 4))
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats/12.png").write_bytes(data)
    example = make_example("cats/12.png", hashlib.sha256(data).digest())
    pictures = load_pictures(tmp_path, [example], quiet, policy=DecodePolicy(12))
    np.testing.assert_array_equal(pictures.raw[0], np.repeat(gray[..., None], 3, axis=2))


def test_read_batches_returns_resized_pictures_and_the_pixels_of_the_first(
    folder: Path, examples: list[Example], quiet: Console
) -> None:
    pictures = load_pictures(folder, examples[::-1], quiet)
    decoded = [decode_image((folder / example.path).read_bytes()) for example in pictures.loaded]
    assert decoded[0].shape == (21, 40, 3)
    assert list(pictures.raw) == list(range(NUM_RAW))
    for index, pixels in pictures.raw.items():
        np.testing.assert_array_equal(pixels, decoded[index])
    ((indices, resized),) = pictures.read_batches()
    assert list(indices) == list(range(10))
    np.testing.assert_array_equal(resized, [resize_pixels(pixels, TINY_SIZE) for pixels in decoded])


def test_read_batches_limits_the_pixels_of_a_batch(
    folder: Path, examples: list[Example], quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train_head.export.load.MAX_PIXELS_AT_ONCE", 3 * 50**2)
    pictures = load_pictures(folder, examples, quiet, 50, num_wanted=8)
    batches = list(pictures.read_batches())
    assert [list(indices) for indices, _ in batches] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert pictures.loaded == examples[:8]
    decoded = [decode_image((folder / example.path).read_bytes()) for example in pictures.loaded]
    expected = np.stack([resize_pixels(pixels, 50) for pixels in decoded])
    np.testing.assert_array_equal(np.concatenate([resized for _, resized in batches]), expected)


@pytest.mark.parametrize(("num_wanted", "num_loaded"), [(1, 1), (7, 7), (10, 10), (100, 10), (None, 10)])
def test_load_takes_the_first_pictures(
    folder: Path, examples: list[Example], quiet: Console, num_wanted: int | None, num_loaded: int
) -> None:
    pictures = load_pictures(folder, examples, quiet, num_wanted=num_wanted)
    assert pictures.loaded == examples[:num_loaded]
    assert pictures.gone == []


def test_load_replaces_gone_and_changed_pictures_by_the_next(
    folder: Path, examples: list[Example], tmp_path: Path, quiet: Console
) -> None:
    for example in examples[2:]:
        (tmp_path / example.path).parent.mkdir(exist_ok=True)
        os.link(folder / example.path, tmp_path / example.path)
    (tmp_path / examples[3].path).unlink()
    (tmp_path / examples[3].path).write_bytes(encode(draw_picture("cats", 999)))
    pictures = load_pictures(tmp_path, examples, quiet, num_wanted=5)
    assert pictures.loaded == [examples[2], *examples[4:8]]
    assert [error.where for error in pictures.gone] == [tmp_path / examples[index].path for index in (0, 1, 3)]


@pytest.mark.parametrize("is_edited", [False, True])
def test_load_with_every_picture_gone_is_an_error_for_the_first(
    examples: list[Example], tmp_path: Path, quiet: Console, is_edited: bool
) -> None:
    (tmp_path / "cats").mkdir()
    if is_edited:
        (tmp_path / examples[0].path).write_bytes(encode(draw_picture("cats", 999)))
    with raises(PictureGoneError, where=tmp_path / examples[0].path):
        load_pictures(tmp_path, examples, quiet)


def test_load_of_an_undecodable_picture_is_an_error_with_the_reason(tmp_path: Path, quiet: Console) -> None:
    page = b"<!doctype html><p>Not found"
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats/page.jpg").write_bytes(page)
    example = make_example("cats/page.jpg", hashlib.sha256(page).digest())
    with raises(HeadstartError, where=tmp_path / example.path) as caught:
        load_pictures(tmp_path, [example], quiet)
    assert "web page" in caught.value.got


def test_load_of_a_picture_above_the_pixel_limit_is_an_error(
    folder: Path, examples: list[Example], quiet: Console
) -> None:
    with raises(HeadstartError, where=folder / examples[0].path) as caught:
        load_pictures(folder, examples, quiet, max_pixels=1000)
    assert "1,000" in caught.value.got


def test_load_decodes_few_pictures_at_a_time_and_keeps_none(
    folder: Path, examples: list[Example], quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0

    @contextmanager
    def hold(data: bytes, max_pixels: int, policy: DecodePolicy) -> Iterator[Any]:
        nonlocal most
        pixels = np.array(decode_image(data, max_pixels, policy))
        alive.append(weakref.ref(pixels))
        most = max(most, sum(ref() is not None for ref in alive))
        yield pixels

    monkeypatch.setattr("train_head.export.pictures.decode_within_budget", hold)
    monkeypatch.setattr("train_head.export.pictures.NUM_RAW", 0)
    load_pictures(folder, examples, quiet)
    assert len(alive) == 10
    assert most <= 4
