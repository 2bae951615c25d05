"""Limit on unusable pictures: its size, the result of a run that exceeds it, and the next run."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from extract.config import ExtractConfig
from extract.images.scan import scan_images
from extract.plan import hash_path
from features.schema import ImageStatus
from features.store import FeatureStore
from tests.commands import CommandResult, run_command
from tests.extract.extraction import extract
from tests.inputs.folders import SMALL
from tests.pictures import encode

NUM_PICTURES = 25
MAX_BAD = 0.1
"""Share that allows three of the pictures."""
BAD = (1, 5, 9, 14)
"""Positions of the bad pictures in the order of reading; the fourth is in the fourth batch of 4."""
NUM_READ = 16
"""Number of pictures in the batches up to the one that exceeds the limit."""


def draw_dots(number: int) -> bytes:
    rng = np.random.default_rng(number)
    return encode(Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)), "BMP")


def write_pictures(folder: Path, num_pictures: int) -> None:
    for number in range(num_pictures):
        path = folder / ("cats", "dogs")[number % 2] / f"{number}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw_dots(number))


@dataclass(frozen=True)
class Stopped:
    """Run of the command that the fourth bad picture stopped."""

    images: Path
    store: Path
    order: list[str]
    """Paths in the order of reading."""
    command: CommandResult

    @property
    def bad(self) -> list[str]:
        """Paths of the bad pictures."""
        return [self.order[place] for place in BAD]

    def copy(self, folder: Path) -> tuple[Path, Path]:
        """Copy pictures and store, with their times."""
        return shutil.copytree(self.images, folder / "images"), shutil.copytree(self.store, folder / "store")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    folder = tmp_path_factory.mktemp("stopped")
    images, store = folder / "images", folder / "store"
    write_pictures(images, NUM_PICTURES)
    order = [image.path for image in sorted(scan_images(images).images, key=hash_path)]
    for place in BAD:
        (images / order[place]).write_bytes(b"")
    options = ["--images", images, "--store", store, *SMALL, "--batch-size", 4, "--max-bad", MAX_BAD, "--json"]
    return Stopped(images, store, order, run_command("extract.__main__", *options))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("share", "num_pictures", "allowed"),
    [
        (0.01, 250, 3),
        (0.01, 1, 1),
        (0.01, 100, 1),
        (0.01, 101, 2),
        (0.016, 250, 4),
        (0.0, 1000, 0),
        (1.0, 7, 7),
        (0.07, 100, 7),
    ],
)
def test_count_bad_allowed_is_the_share_rounded_up(share: float, num_pictures: int, allowed: int) -> None:
    config = ExtractConfig(Path("images"), Path("store"), max_bad=share)
    assert config.count_bad_allowed(num_pictures) == allowed
    assert replace(config, strict=True).count_bad_allowed(num_pictures) == 0


@pytest.mark.unit
def test_max_bad_is_one_percent_by_default() -> None:
    assert ExtractConfig(Path("images"), Path("store")).max_bad == 0.01


def test_extract_beyond_max_bad_fails_with_the_last_bad_picture(stopped: Stopped) -> None:
    assert stopped.command.status == 1
    error = stopped.command.json["error"]
    assert error.startswith(f"{stopped.images}: ")
    assert stopped.bad[3] in error
    errors = [line for line in stopped.command.err.splitlines() if line.startswith("error: ")]
    assert errors == [f"error: {error}"]
    assert stopped.command.warnings == []


def test_extract_beyond_max_bad_lists_each_bad_picture_once(stopped: Stopped) -> None:
    failed = [{"image": path, "reason": "an empty file"} for path in stopped.bad]
    assert stopped.command.json["failed"] == failed
    lines = stopped.command.err.splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert [row for row in cells if row[-1] == "an empty file"] == [[*failure.values()] for failure in failed]


def test_extract_beyond_max_bad_keeps_the_computed_features(stopped: Stopped) -> None:
    read = stopped.order[:NUM_READ]
    result = stopped.command.json
    assert (result["images"], result["computed"], result["reused"]) == (NUM_PICTURES, NUM_READ - 4, 0)
    store = FeatureStore(stopped.store)
    assert [example.path for example in store.examples] == sorted(set(read) - set(stopped.bad))
    assert store.num_features == NUM_READ - 4
    statuses = {image.path: (image.status, image.reason) for image in store.images}
    assert [statuses[path] for path in stopped.bad] == [(ImageStatus.FAILED, "an empty file")] * 4
    assert {statuses[path] for path in stopped.order[NUM_READ:]} == {(ImageStatus.PENDING, "")}


def test_extract_after_one_repair_computes_only_the_missing_features(stopped: Stopped, tmp_path: Path) -> None:
    images, path = stopped.copy(tmp_path)
    before = FeatureStore(path)
    features = before.read(before.examples)
    (images / stopped.bad[1]).write_bytes(draw_dots(1000))

    result = extract(images, path, max_bad=MAX_BAD)

    assert (result.error, result.computed, result.reused) == ("", NUM_PICTURES - 3 - 12, 12)
    assert [failed["image"] for failed in result.failed] == [stopped.bad[0], *stopped.bad[2:]]
    after = FeatureStore(path)
    by_path = {example.path: example for example in after.examples}
    assert len(by_path) == NUM_PICTURES - 3
    assert [by_path[example.path] for example in before.examples] == before.examples
    np.testing.assert_array_equal(after.read([by_path[example.path] for example in before.examples]), features)


def test_extract_after_removal_of_the_bad_pictures_continues_without_them(stopped: Stopped, tmp_path: Path) -> None:
    images, store = stopped.copy(tmp_path)
    for path in stopped.bad:
        (images / path).unlink()
    result = extract(images, store, max_bad=MAX_BAD)
    assert (result.images, result.computed, result.reused) == (NUM_PICTURES - 4, NUM_PICTURES - NUM_READ, 12)
    assert (result.removed, result.failed, result.error) == (4, [], "")


def test_extract_with_a_larger_max_bad_accepts_the_same_pictures(stopped: Stopped, tmp_path: Path) -> None:
    images, store = stopped.copy(tmp_path)
    result = extract(images, store, max_bad=4 / NUM_PICTURES)
    assert [failed["image"] for failed in result.failed] == stopped.bad
    assert (result.error, len(FeatureStore(store).examples)) == ("", NUM_PICTURES - 4)


@pytest.mark.parametrize("options", [{"strict": True, "max_bad": 1.0}, {"max_bad": 0.0}], ids=["strict", "none"])
def test_extract_that_allows_no_bad_picture_stops_at_the_first(tmp_path: Path, options: dict[str, float]) -> None:
    write_pictures(tmp_path / "images", 8)
    (tmp_path / "images/dogs/5.bmp").write_bytes(b"")
    result = extract(tmp_path / "images", tmp_path / "store", batch_size=8, **options)
    assert result.stopped is not None
    assert result.stopped.where == tmp_path / "images"
    assert result.failed == [{"image": "dogs/5.bmp", "reason": "an empty file"}]
    assert result.computed == 7
