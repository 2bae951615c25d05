"""Significant bits of 16-bit pictures: found over the folder, recorded, and kept by every later run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from base.errors import FingerprintMismatchError
from base.terminal import Console
from extract.config import SampleBits
from extract.decoding.decode import decode_image
from extract.decoding.policy import DecodePolicy
from extract.images.scan import scan_images
from extract.sample_bits import decide_policy
from extract.stores import StoredState, read_store
from features.store import FeatureStore
from tests.commands import run_command
from tests.errors import raises
from tests.extract.extraction import configure, extract, read_by_key
from tests.inputs.folders import SMALL
from tests.pictures import draw_picture, encode

NUM_PICTURES = 4
FIRST = DecodePolicy(edition=1)


def draw_gray(number: int, bits: int) -> Image.Image:
    """Draw a gray picture with samples of this many bits; those of 8 bits are in a 16-bit picture, too."""
    gray = np.asarray(draw_picture("cats", number, (20, 15)).convert("L")).astype(np.uint16)
    gray[0, 0] = 255
    return Image.fromarray(gray << (bits - 8))


def fill(folder: Path, bits: int, numbers: range = range(NUM_PICTURES), extension: str = "png") -> Path:
    """Fill the classes of a folder with gray 16-bit pictures."""
    for number in numbers:
        path = folder / ("cats", "dogs")[number % 2] / f"{number}.{extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(draw_gray(number, bits), "TIFF" if extension == "tif" else "PNG"))
    return folder


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folder of pictures with 12 significant bits, and its store; must not be changed."""
    folder = tmp_path_factory.mktemp("twelve")
    fill(folder / "pictures", 12)
    assert extract(folder / "pictures", folder / "store").sample_bits == 12
    return folder / "pictures", folder / "store"


def decide(
    folder: Path, stored: StoredState | None = None, bits: SampleBits = SampleBits.AUTO
) -> tuple[DecodePolicy, bool]:
    config = configure(folder, folder.parent / "store", sample_bits=bits)
    return decide_policy(config, scan_images(folder).images, [stored] if stored else [], 1, Console())


@pytest.mark.unit
@pytest.mark.parametrize("extension", ["png", "tif"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_decide_policy_finds_the_bits_of_a_new_folder(tmp_path: Path, bits: int, extension: str) -> None:
    folder = fill(tmp_path / "pictures", 8, extension=extension)
    fill(folder, bits, range(2, 3), extension)
    assert decide(folder) == (DecodePolicy(bits), True)


@pytest.mark.unit
def test_decide_policy_of_a_folder_without_16_bit_pictures_is_the_default(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    for label in ("cats", "dogs"):
        (folder / label).mkdir(parents=True)
        (folder / label / "1.png").write_bytes(encode(draw_picture(label, 1)))
        (folder / label / "jpeg.png").write_bytes(encode(draw_picture(label, 2), "JPEG"))
        (folder / label / "damaged.tif").write_bytes(b"II*\0")
        (folder / label / "maximum.pgm").write_bytes(b"P5 1 1 4095\n\0\1")
    assert decide(folder) == (DecodePolicy(), False)


@pytest.mark.unit
def test_decide_policy_with_the_option_reads_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path / "pictures", 12)
    monkeypatch.setattr("extract.sample_bits.survey_samples", None)
    assert decide(folder, bits=SampleBits.FOURTEEN) == (DecodePolicy(14), True)


@pytest.mark.unit
def test_decide_policy_ends_the_search_at_16_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, read = fill(tmp_path / "pictures", 16, range(60)), []

    def count(data: bytes, max_pixels: int) -> int:
        read.append(len(data))
        return 16

    monkeypatch.setattr("extract.sample_bits.find_sample_bits", count)
    assert decide(folder) == (DecodePolicy(16), True)
    assert len(read) < 60


def test_extract_12_bits_equals_extract_of_the_pictures_with_8_bits(twelve: tuple[Path, Path], tmp_path: Path) -> None:
    for number in range(NUM_PICTURES):
        path = tmp_path / "pictures" / ("cats", "dogs")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(draw_gray(number, 8).convert("I").convert("L")))
    result = extract(tmp_path / "pictures", tmp_path / "store")
    assert result.sample_bits == 16
    features, others = FeatureStore(twelve[1]), FeatureStore(tmp_path / "store")
    assert features.fingerprint.decode_policy == str(DecodePolicy(12))
    assert others.fingerprint.decode_policy == str(DecodePolicy())
    np.testing.assert_array_equal(features.read(features.examples), others.read(others.examples))


def test_extract_again_reads_no_unchanged_picture(
    twelve: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read: list[Path] = []
    monkeypatch.setattr("extract.sample_bits.has_sample_bits", read.append)
    result = extract(*twelve)
    assert (result.computed, result.sample_bits, read) == (0, 12, [])


def test_extract_prints_and_returns_the_bits(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pictures", 10)
    result = run_command("extract.__main__", "--images", folder, "--store", tmp_path / "store", *SMALL, "--json")
    assert (result.status, result.json["sample_bits"]) == (0, 10)
    assert any("10" in line and "bits" in line for line in result.err.splitlines())


# Stores that exist.


def add_pictures(source: Path, folder: Path, bits: int) -> Path:
    """Copy a folder of pictures, and add one with other bits."""
    copy = shutil.copytree(source, folder / "pictures")
    return fill(copy, bits, range(50, 51))


def load_state(store: Path) -> StoredState:
    state = read_store(store)
    assert state
    return state


@pytest.mark.parametrize(("bits", "is_refused"), [(8, False), (12, False), (14, True), (16, True)])
def test_decide_policy_refuses_more_bits_than_those_of_the_store(
    twelve: tuple[Path, Path], tmp_path: Path, bits: int, is_refused: bool
) -> None:
    folder = add_pictures(twelve[0], tmp_path, bits)
    if is_refused:
        with raises(FingerprintMismatchError, where=twelve[1]) as caught:
            decide(folder, load_state(twelve[1]))
        assert str(bits) in caught.value.got
        assert "cats/50.png" in caught.value.got
    else:
        assert decide(folder, load_state(twelve[1])) == (DecodePolicy(12), True)


@pytest.fixture
def gray_store(tmp_path: Path) -> tuple[Path, Path]:
    """Folder of 8-bit pictures, and its store."""
    folder = tmp_path / "gray"
    for number in range(NUM_PICTURES):
        path = folder / ("cats", "dogs")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(draw_picture("cats", number, (20, 15))))
    extract(folder, tmp_path / "store")
    return folder, tmp_path / "store"


def test_extract_first_16_bit_pictures_of_a_store_need_all_bits_or_the_option(gray_store: tuple[Path, Path]) -> None:
    folder, store = gray_store
    before = read_by_key(store)
    fill(folder, 12, range(50, 51))
    with raises(FingerprintMismatchError, where=store) as caught:
        extract(folder, store)
    assert "--sample-bits 16" in caught.value.advice
    assert "--new-store" in caught.value.advice
    assert read_by_key(store).keys() == before.keys()
    # The advice works, and the next pictures need no option.
    assert extract(folder, store, sample_bits=SampleBits.SIXTEEN).computed == 1
    fill(folder, 14, range(51, 52))
    assert extract(folder, store).computed == 1
    assert extract(folder, store, new_store=True).sample_bits == 14


def test_extract_16_bits_into_a_store_without_16_bit_pictures_goes_on(gray_store: tuple[Path, Path]) -> None:
    folder, store = gray_store
    fill(folder, 16, range(50, 51))
    assert (result := extract(folder, store)).computed == 1
    assert result.fingerprint == FeatureStore(store).fingerprint.digest


def test_extract_with_other_bits_than_those_of_the_store_is_refused(twelve: tuple[Path, Path]) -> None:
    with raises(FingerprintMismatchError, where=twelve[1]):
        extract(*twelve, sample_bits=SampleBits.SIXTEEN)


def test_extract_into_a_store_of_the_first_edition_goes_on_with_its_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, store = fill(tmp_path / "pictures", 16), tmp_path / "store"
    with monkeypatch.context() as patch:
        patch.setattr("extract.sample_bits.DecodePolicy", partial(DecodePolicy, edition=1))
        extract(folder, store)
    assert FeatureStore(store).fingerprint.decode_policy == str(FIRST)
    rgba = np.dstack([np.asarray(draw_picture("cats", 9)), np.zeros((80, 90), np.uint8)])
    (folder / "cats/clear.png").write_bytes(encode(Image.fromarray(rgba)))
    result = extract(folder, store)
    assert (result.computed, result.one_colour_images) == (1, ["cats/clear.png"])
    assert FeatureStore(store).fingerprint.decode_policy == str(FIRST)
    assert extract(folder, store, sample_bits=SampleBits.SIXTEEN).computed == 0
    assert extract(folder, store, new_store=True).one_colour == 0


# Pictures of one colour and of low contrast.


@pytest.mark.parametrize(
    ("draw", "one_colour", "low_contrast"),
    [
        (lambda _: np.full((15, 20, 3), (255, 0, 0), np.uint8), 4, 0),
        (lambda number: np.asarray(draw_gray(number, 8)) // 8, 0, 4),
        (lambda number: np.asarray(draw_picture("cats", number, (20, 15))), 0, 0),
    ],
    ids=["one colour", "low contrast", "usual"],
)
def test_extract_counts_pictures_of_one_colour_and_of_low_contrast(
    tmp_path: Path, draw: Callable[[int], np.ndarray], one_colour: int, low_contrast: int
) -> None:
    for number in range(NUM_PICTURES):
        path = tmp_path / "pictures" / ("cats", "dogs")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = draw(number).astype(np.uint8)
        picture[0, 0] += number * (one_colour == 0)
        path.write_bytes(encode(Image.fromarray(picture), dpi=(number + 1, 1)))
    images = ["--images", tmp_path / "pictures", "--store", tmp_path / "store"]
    result = run_command("extract.__main__", *images, *SMALL, "--json")
    assert (result.json["one_colour"], result.json["low_contrast"]) == (one_colour, low_contrast)
    assert len(result.json["one_colour_images"]) == one_colour
    assert len(result.json["low_contrast_images"]) == low_contrast
    found = result.json["one_colour_images"] + result.json["low_contrast_images"]
    assert [warning for warning in result.warnings if any(path in warning for path in found)] == result.warnings
    assert len(result.warnings) == bool(found)
    assert decode_image(path.read_bytes()).shape == (15, 20, 3)
