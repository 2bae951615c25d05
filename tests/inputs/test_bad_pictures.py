"""Too many bad pictures: how many are too many, what is said of them, and how the next run goes on."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from base.terminal import Console
from extract.__main__ import extract
from extract.config import ExtractConfig
from extract.images.scan import scan_images
from extract.plan import hash_path
from extract.run import extract_features
from features.schema import ImageStatus
from features.store import FeatureStore
from tests.inputs.commands import EXTRACT, SMALL, Done, run
from tests.pictures import encode

NUM_PICTURES = 250
BAD = (10, 40, 70, 130)
"""Places in the order of reading: the fourth is in the fifth batch of 32."""


def draw_dot(number: int) -> bytes:
    rng = np.random.default_rng(number)
    return encode(Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)), "BMP")


def configure(images: Path, store: Path) -> ExtractConfig:
    return ExtractConfig(images, store, weights="random", image_size=75, cut="mixed0")


def list_in_order(images: Path) -> list[str]:
    return [image.path for image in sorted(scan_images(images).images, key=hash_path)]


@dataclass(frozen=True)
class Stopped:
    """A run that the fourth bad picture of 250 ended."""

    images: Path
    store: Path
    order: list[str]
    """In which pictures are read."""
    done: Done

    @property
    def bad(self) -> list[str]:
        return [self.order[place] for place in BAD]

    def copy(self, folder: Path) -> ExtractConfig:
        """Copies folder and store, times included."""
        images, store = shutil.copytree(self.images, folder / "images"), shutil.copytree(self.store, folder / "store")
        return configure(images, store)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    folder = tmp_path_factory.mktemp("stopped")
    images, store = folder / "images", folder / "store"
    for number in range(NUM_PICTURES):
        path = images / ("cats", "dogs")[number % 2] / f"{number}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw_dot(number))
    order = list_in_order(images)
    for place in BAD:
        (images / order[place]).write_bytes(b"")
    return Stopped(images, store, order, run(EXTRACT, "--images", images, "--store", store, *SMALL, "--json"))


@pytest.mark.parametrize(
    ("share", "num_pictures", "allowed"),
    [
        (0.01, 250, 3),
        (0.01, 1, 1),
        (0.01, 100, 1),
        (0.01, 101, 2),
        (0.016, 250, 4),
        (0.01, 200, 2),
        (0.0, 1000, 0),
        (1.0, 7, 7),
        (0.07, 100, 7),
        (0.5, 3, 2),
    ],
)
def test_count_bad_allowed_is_the_share_rounded_up(share: float, num_pictures: int, allowed: int) -> None:
    config = replace(configure(Path("images"), Path("store")), max_bad=share)
    assert config.count_bad_allowed(num_pictures) == allowed
    assert replace(config, strict=True).count_bad_allowed(num_pictures) == 0


def test_max_bad_is_a_hundredth_if_nobody_says_otherwise() -> None:
    assert configure(Path("images"), Path("store")).max_bad == 0.01


def test_extract_fourth_bad_of_250_ends_with_status_1_and_says_why(stopped: Stopped) -> None:
    assert stopped.done.status == 1
    assert stopped.done.result["error"].startswith(f"{stopped.images}: ")
    assert f"4, the last {stopped.bad[3]} (an empty file)" in stopped.done.result["error"]
    errors = [line for line in stopped.done.err.splitlines() if line.startswith("error: ")]
    assert errors == [f"error: {stopped.done.result['error']}"]


def test_extract_that_is_stopped_lists_each_bad_file_once_with_its_reason(stopped: Stopped) -> None:
    failed = [{"image": path, "reason": "an empty file"} for path in stopped.bad]
    assert stopped.done.result["failed"] == failed
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in stopped.done.err.splitlines() if "│" in line]
    assert [cell for cell in cells if cell[-1] == "an empty file"] == [[*failure.values()] for failure in failed]


def test_extract_that_is_stopped_keeps_what_it_computed(stopped: Stopped) -> None:
    read = stopped.order[: 5 * 32]
    result = stopped.done.result
    assert (result["images"], result["computed"], result["reused"]) == (NUM_PICTURES, len(read) - 4, 0)
    store = FeatureStore(stopped.store)
    assert [example.path for example in store.examples] == sorted(set(read) - set(stopped.bad))
    assert store.num_features == len(read) - 4
    statuses = {image.path: (image.status, image.reason) for image in store.images}
    assert [statuses[path] for path in stopped.bad] == [(ImageStatus.FAILED, "an empty file")] * 4
    assert {statuses[path] for path in stopped.order[5 * 32 :]} == {(ImageStatus.PENDING, "")}


def test_extract_after_one_is_mended_passes_with_three_and_computes_only_what_lacks(
    stopped: Stopped, tmp_path: Path, quiet: Console
) -> None:
    config = stopped.copy(tmp_path)
    before = FeatureStore(config.store)
    features = before.read(before.examples)
    (config.images / stopped.bad[1]).write_bytes(draw_dot(1000))

    result = extract(config, quiet)

    assert (result["error"], result["computed"], result["reused"]) == ("", NUM_PICTURES - 3 - 156, 156)
    assert [failed["image"] for failed in result["failed"]] == [stopped.bad[0], *stopped.bad[2:]]
    after = FeatureStore(config.store)
    assert len(after.examples) == NUM_PICTURES - 3
    by_path = {example.path: example for example in after.examples}
    assert [by_path[example.path] for example in before.examples] == before.examples
    np.testing.assert_array_equal(after.read([by_path[example.path] for example in before.examples]), features)


def test_extract_after_the_bad_are_removed_goes_on_and_forgets_them(
    stopped: Stopped, tmp_path: Path, quiet: Console
) -> None:
    config = stopped.copy(tmp_path)
    for path in stopped.bad:
        (config.images / path).unlink()
    result = extract(config, quiet)
    assert (result["images"], result["computed"], result["reused"]) == (NUM_PICTURES - 4, 90, 156)
    assert (result["removed"], result["failed"], result["error"]) == (4, [], "")


def test_extract_with_the_share_of_four_passes(stopped: Stopped, tmp_path: Path, quiet: Console) -> None:
    config = stopped.copy(tmp_path)
    result = extract(replace(config, max_bad=0.016), quiet)
    assert [failed["image"] for failed in result["failed"]] == stopped.bad
    assert (result["error"], len(FeatureStore(config.store).examples)) == ("", NUM_PICTURES - 4)


def test_extract_strict_is_max_bad_0(tmp_path: Path, quiet: Console) -> None:
    for number in range(8):
        path = tmp_path / "images" / ("cats", "dogs")[number % 2] / f"{number}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw_dot(number) if number != 5 else b"")
    strict, none = (
        extract_features(replace(configure(tmp_path / "images", tmp_path / name), strict=strict, max_bad=share), quiet)
        for name, strict, share in (("strict", True, 1.0), ("none", False, 0.0))
    )
    assert strict.error == none.error
    assert none.stopped is not None
    assert (none.stopped.where, none.stopped.got) == (tmp_path / "images", "1, the last dogs/5.bmp (an empty file)")
    assert strict.failed == none.failed == [{"image": "dogs/5.bmp", "reason": "an empty file"}]
    assert strict.computed == none.computed == 7
