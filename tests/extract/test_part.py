"""Extraction of one part of a folder: the pictures, the decisions of the whole folder, and the record in the store."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import headstart as hs
from base.errors import UsageError
from base.terminal import Console
from extract.config import parse_part
from extract.counts import BadPicturesError
from extract.estimate import estimate_run
from extract.parts import OtherPartError
from extract.result import ExtractResult
from features.catalog.catalog import CATALOG_NAME, Catalog
from features.maintenance.check import rebuild_catalog
from features.parts import FOLDER_KEY, PART_KEY, Parts
from features.store import FeatureStore
from tests.commands import run_command
from tests.errors import raises
from tests.extract.extraction import configure, extract
from tests.pictures import fill_folder

pytestmark = pytest.mark.usefixtures("small_backbone")


def extract_part(images: Path, store: Path, part: str, **options: Any) -> ExtractResult:
    return extract(images, store, **({"part": part, "cut": "mixed5"} | options))


def read_meta(store: Path, key: str) -> str | None:
    with closing(Catalog(store / CATALOG_NAME, writable=False)) as catalog:
        return catalog.read_meta(key)


def list_paths(images: Path, part: str) -> list[str]:
    paths = (path.relative_to(images).as_posix() for path in images.rglob("*.*"))
    return sorted(path for path in paths if Parts.parse(part).holds(path))


@pytest.fixture
def part_store(shared_pictures: Path, tmp_path: Path) -> Path:
    """Store of part 2 of 3 of `shared_pictures`."""
    assert extract_part(shared_pictures, tmp_path / "part", "2/3").part == "2/3"
    return tmp_path / "part"


@pytest.mark.unit
@pytest.mark.parametrize("text", ["0/16", "17/16", "3/0", "three", "1,2/16"])
def test_extract_other_text_than_a_part_is_refused_before_any_work(text: str, tmp_path: Path) -> None:
    with raises(UsageError, where="--part", got=repr(text)):
        extract_part(tmp_path / "missing", tmp_path / "store", text)
    assert parse_part("") is None


def test_extract_part_stores_the_pictures_whose_path_falls_into_it(shared_pictures: Path, part_store: Path) -> None:
    expected = list_paths(shared_pictures, "2/3")
    store = FeatureStore(part_store)
    assert 0 < len(expected) < 16
    assert [image.path for image in store.images] == sorted(store.paths()) == expected
    assert read_meta(part_store, PART_KEY) == "2/3"
    assert extract_part(shared_pictures, part_store, "2/3").computed == 0


@pytest.mark.parametrize("part", ["", "1/3", "2/4"])
def test_extract_another_part_into_the_store_of_a_part_is_refused(
    part: str, shared_pictures: Path, part_store: Path
) -> None:
    before = FeatureStore(part_store).images
    with raises(OtherPartError, where=part_store, got=f"--part {part}" if part else "no --part"):
        extract_part(shared_pictures, part_store, part)
    assert FeatureStore(part_store).images == before


def test_extract_part_into_a_whole_store_is_refused(shared_pictures: Path, tmp_path: Path) -> None:
    small_store = tmp_path / "store"
    extract(shared_pictures, small_store, cut="mixed5")
    with raises(OtherPartError, where=small_store):
        extract_part(shared_pictures, small_store, "2/3")


def test_extract_part_after_a_rebuilt_catalog_records_the_part_again(shared_pictures: Path, part_store: Path) -> None:
    expected = FeatureStore(part_store).images
    rebuild_catalog(part_store)
    assert extract_part(shared_pictures, part_store, "2/3").computed == 0
    assert FeatureStore(part_store).images == expected
    assert read_meta(part_store, PART_KEY) == "2/3"


def test_extract_part_without_pictures_gives_an_empty_store(shared_pictures: Path, tmp_path: Path) -> None:
    count = 500
    empty = next(number for number in range(1, count) if not list_paths(shared_pictures, f"{number}/{count}"))
    for _ in range(2):
        assert extract_part(shared_pictures, tmp_path / "store", f"{empty}/{count}").images == 0
    assert FeatureStore(tmp_path / "store").images == []


def test_extract_parts_of_one_folder_describe_it_equally(
    small_pictures: Path, part_store: Path, tmp_path: Path
) -> None:
    described = read_meta(part_store, FOLDER_KEY)
    extract_part(small_pictures, tmp_path / "copy", "1/3")
    assert read_meta(tmp_path / "copy", FOLDER_KEY) == described
    fill_folder(small_pictures, {"train/cats": 1}, start=70)
    extract_part(small_pictures, tmp_path / "copy", "1/3")
    assert read_meta(tmp_path / "copy", FOLDER_KEY) != described


def test_extract_part_accepts_bad_pictures_by_the_size_of_the_part(small_pictures: Path, tmp_path: Path) -> None:
    inside = list_paths(small_pictures, "1/3")
    for path in inside[:2]:
        (small_pictures / path).write_bytes(b"")
    # One of the pictures of the part, or two of the 16 of the folder.
    stopped = extract_part(small_pictures, tmp_path / "store", "1/3", max_bad=1 / 16).stopped
    assert isinstance(stopped, BadPicturesError)
    assert extract_part(small_pictures, tmp_path / "other", "2/3", strict=True).stopped is None


def test_extract_part_scales_deep_samples_by_the_bits_of_the_whole_folder(small_pictures: Path, tmp_path: Path) -> None:
    name = "train/cats/deep.png"
    Image.new("I;16", (90, 80), 1000).save(small_pictures / name)
    (number,) = (number for number in (1, 2, 3) if name in list_paths(small_pictures, f"{number}/3"))
    others = [other for other in (1, 2, 3) if other != number]
    bits = {n: extract_part(small_pictures, tmp_path / str(n), f"{n}/3").sample_bits for n in (number, *others)}
    assert set(bits.values()) == {10}
    fingerprints = {FeatureStore(tmp_path / str(n)).fingerprint for n in bits}
    assert len(fingerprints) == 1


def test_extract_part_at_several_cuts_records_it_in_each_store(shared_pictures: Path, tmp_path: Path) -> None:
    extract_part(shared_pictures, tmp_path / "store", "1/3", cut="mixed5,mixed6")
    for cut in ("mixed5", "mixed6"):
        assert read_meta(tmp_path / "store" / cut, PART_KEY) == "1/3"
    with raises(OtherPartError, where=tmp_path / "store/mixed5"):
        extract_part(shared_pictures, tmp_path / "store", "2/3", cut="mixed5,mixed6")


def test_dry_run_of_a_part_counts_its_pictures_and_the_classes_of_the_folder(
    shared_pictures: Path, tmp_path: Path
) -> None:
    found = estimate_run(configure(shared_pictures, tmp_path / "new", part="2/3", cut="mixed5"), Console())
    assert found["images"] == found["to_read"] == len(list_paths(shared_pictures, "2/3"))
    assert found["classes"]["train"] == {"cats": 6, "dogs": 6}
    assert found["part"] == "2/3"


def test_part_works_in_the_python_api_and_on_the_command_line(shared_pictures: Path, tmp_path: Path) -> None:
    store = hs.extract(shared_pictures, tmp_path / "store", weights="random", image_size=75, cut="mixed5", part="2/3")
    assert sorted(store.paths()) == list_paths(shared_pictures, "2/3")
    arguments = ("--images", shared_pictures, "--store", tmp_path / "store", "--weights", "random", "--cut", "mixed5")
    result = run_command("extract.__main__", *arguments, "--image-size", 75, "--part", "2/3", "--json")
    assert (result.status, result.json["part"], result.json["computed"]) == (0, "2/3", 0)
