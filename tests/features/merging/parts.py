"""Small stores of parts of a folder of 40 pictures, and what a merged store must have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from features.catalog.tables import ImageRow
from features.labels import LabelSource
from features.parts import FOLDER_KEY, PART_KEY, Parts
from features.schema import FeatureStatus, ImageStatus
from features.store import FeatureStore
from features.store_writer import FeatureWriter
from tests.commands import CommandResult, run_command
from tests.features.stores import find_all_problems, make_features, make_fingerprint, make_image, make_key, make_origin

NUM_PICTURES = 40
FOLDER = "40 pictures with digest 0123456789abcdef"


def list_numbers(part: str, num_pictures: int = NUM_PICTURES) -> list[int]:
    """List the pictures of a part."""
    parts = Parts.parse(part)
    return [number for number in range(num_pictures) if parts.holds(make_image(number).path)]


def make_part(
    store: Path,
    part: str,
    numbers: Sequence[int] | None = None,
    *,
    folder: str = FOLDER,
    pending: Sequence[int] = (),
    failed: Sequence[int] = (),
    shift: int = 0,
    labels: LabelSource | None = None,
    views: int = 1,
    **fields: Any,
) -> Path:
    """Write the store of a part, as `extract --part` does.

    Args:
        store: folder of the store.
        part: the part; empty for a whole store.
        numbers: pictures; by default those of the part.
        folder: description of the whole folder.
        pending: pictures without features.
        failed: pictures that cannot be decoded.
        shift: number that is added to the content of the pictures.
        labels: source of the labels.
        views: number of views of each picture.
        fields: fields of the fingerprint.
    """
    numbers = list_numbers(part) if numbers is None else numbers
    images: list[ImageRow] = []
    with FeatureWriter(store, make_fingerprint(**fields), make_origin(), rows_per_shard=4) as writer:
        stored = [number for number in numbers if number not in {*pending, *failed}]
        for number in numbers:
            image = make_image(number)._replace(content_hash=make_key(number + shift).content_hash)
            if number in pending:
                image = image._replace(content_hash=None, status=ImageStatus.PENDING)
            elif number in failed:
                image = image._replace(content_hash=None, status=ImageStatus.FAILED, reason="truncated")
            images.append(image)
        writer.update_images(images, [], labels)
        for key, value in {
            "images_folder": f"/mount/{store.name}/pictures",
            "weights": "random",
            PART_KEY: part,
            FOLDER_KEY: folder,
        }.items():
            writer.write_meta(key, value)
        for view in range(views):
            keys = [make_key(number + shift)._replace(view=view) for number in stored]
            new = [n for n, key in enumerate(keys) if not writer.holds(key)]
            if new:
                features = make_features(stored[n] + shift + 1000 * view for n in new)
                writer.add_features([keys[n] for n in new], features, [FeatureStatus.OK] * len(new))
        writer.commit()
    return store


def make_parts(folder: Path, count: int) -> list[Path]:
    """Write all parts of the folder."""
    return [make_part(folder / f"part-{number}", f"{number}/{count}") for number in range(1, count + 1)]


def merge(*arguments: object) -> CommandResult:
    """Run `features merge --json`."""
    return run_command("features.__main__", "merge", *arguments, "--json", "-q")


def assert_whole(store: Path, num_pictures: int = NUM_PICTURES) -> None:
    """Assert that a store has all pictures with the values of their features, and no problem."""
    found = FeatureStore(store)
    assert found.images == sorted(map(make_image, range(num_pictures)), key=lambda image: image.path)
    for example, feature in zip(found.examples, found.read(found.examples), strict=True):
        np.testing.assert_array_equal(feature, make_features([int(Path(example.path).stem)])[0])
    assert len(found.examples) == num_pictures
    assert find_all_problems(store) == []
