"""Workloads of the torture test of a store: add features shard by shard, and extract pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from features.catalog.tables import ImageRow
from features.maintenance.check import find_problems
from features.schema import ImageStatus
from features.store import FeatureStore
from tests.extract.mean_colours import MeanColours, run_loop, write_pictures
from tests.features.stores import add_features, make_features, make_image, make_key, make_writer

ROWS_PER_SHARD = 4
NUM_ROWS = 12
NUM_BEFORE = 4
"""Number of rows in the store before a trial."""
NUM_PICTURES = 60
"""Number of pictures of an extraction: ten shards."""


def extend_store(store: Path, num_rows: int, acknowledge: Callable[[int], None]) -> int:
    """Extend a store to a number of features and images.

    Args:
        store: folder of the store.
        num_rows: number of pictures.
        acknowledge: called with the number of committed features after each commit.

    Returns:
        The number of computed features.
    """
    num_computed = 0
    with make_writer(store, ROWS_PER_SHARD) as writer:
        known = {row.path: row for row in writer.catalog.read_images()}
        pending = [
            known.get(image.path, image._replace(status=ImageStatus.PENDING, content_hash=None))
            for image in map(make_image, range(num_rows))
        ]
        writer.update_images(pending, [])
        for start in range(0, num_rows, ROWS_PER_SHARD):
            numbers = range(start, min(start + ROWS_PER_SHARD, num_rows))
            new = [number for number in numbers if not writer.holds(make_key(number))]
            if new:
                add_features(writer, new)
            for number in numbers:
                writer.add_image(make_image(number))
            writer.commit()
            num_computed += len(new)
            acknowledge(writer.num_stored)
    return num_computed


def find_losses(store: Path, num_safe: int) -> list[str]:
    """Return a line for each acknowledged row that is lost, and for each row with wrong values."""
    opened = FeatureStore(store)
    stored = {key for key in opened.contents.locations}
    losses = [f"row {number} is lost" for number in range(num_safe) if make_key(number) not in stored]
    for example, feature in zip(opened.examples, opened.read(opened.examples), strict=True):
        number = int(Path(example.path).stem)
        if example.label != make_image(number).label or not np.array_equal(feature, make_features([number])[0]):
            losses.append(f"row {number} is wrong")
    return losses


def resume_and_verify(store: Path, num_safe: int, num_rows: int = NUM_ROWS) -> list[str]:
    """Resume a run after a fault, and check the store.

    Args:
        store: folder of the store.
        num_safe: number of features that were acknowledged before the fault.
        num_rows: number of features after the resumed run.

    Returns:
        A line for each violation.
    """
    problems = find_losses(store, num_safe) if num_safe else []
    num_computed = extend_store(store, num_rows, lambda _: None)
    # Acknowledged features must not be computed again.
    if num_computed > num_rows - num_safe:
        problems.append(f"{num_computed} features were computed where {num_rows - num_safe} were missing")
    problems += find_losses(store, num_rows)
    found = find_problems(store, read_data=True, images=None, advance=lambda _: None)
    if len(FeatureStore(store).examples) != num_rows:
        problems.append(f"{len(FeatureStore(store).examples)} examples instead of {num_rows}")
    return problems + [f"{problem.where}: {problem.what}" for problem in found]


def extract_pictures(folder: Path) -> None:
    """Extract `folder / "pictures"` with two streams into `folder / "store"`, or complete this store."""
    pictures = folder / "pictures"
    if not pictures.exists():
        folder.mkdir(exist_ok=True)
        write_pictures(pictures, range(NUM_PICTURES))
    rows = [ImageRow(path.name, "cats", "", path.stat().st_size, 1) for path in sorted(pictures.iterdir())]
    run_loop(folder, rows, MeanColours(num_streams=2))


def find_differences(store: Path, expected: Path) -> list[str]:
    """Return a line for each difference of a store from that of an uninterrupted extraction."""
    opened, whole = FeatureStore(store), FeatureStore(expected)
    problems = find_problems(store, read_data=True, images=None, advance=lambda _: None)
    differences = [f"{problem.where}: {problem.what}" for problem in problems]
    if [example.path for example in opened.examples] != [example.path for example in whole.examples]:
        differences.append(f"{len(opened.examples)} examples instead of {len(whole.examples)}")
    elif opened.read(opened.examples).tobytes() != whole.read(whole.examples).tobytes():
        differences.append("other rows")
    return differences
