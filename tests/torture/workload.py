"""What is tortured: a run that adds features to a store, shard by shard, as extraction does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from features.maintenance.check import find_problems
from features.schema import FeatureStatus, ImageStatus
from features.store import FeatureStore
from tests.features.stores import make_features, make_image, make_key, make_writer

ROWS_PER_SHARD = 4
NUM_ROWS = 12
NUM_BEFORE = 4
"""Rows that the store holds when the torture begins."""


def extend_store(store: Path, num_rows: int, acknowledge: Callable[[int], None]) -> int:
    """Brings a store to `num_rows` features and images.

    Args:
        store: its folder.
        num_rows: features are those of the numbers below it.
        acknowledge: told after each commit how many features are safe.

    Returns:
        How many features were computed.
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
                features = np.concatenate([make_features(range(number, number + 1)) for number in new])
                writer.add_features([make_key(number) for number in new], features, [FeatureStatus.OK] * len(new))
            for number in numbers:
                writer.add_image(make_image(number))
            writer.commit()
            num_computed += len(new)
            acknowledge(writer.num_stored)
    return num_computed


def find_losses(store: Path, num_safe: int) -> list[str]:
    """Looks for rows that were acknowledged and are lost, and for any row that is wrong.

    Returns:
        A line for each.
    """
    opened = FeatureStore(store)
    stored = {key for key in opened.contents.locations}
    losses = [f"row {number} is lost" for number in range(num_safe) if make_key(number) not in stored]
    for example, feature in zip(opened.examples, opened.read(opened.examples), strict=True):
        number = int(Path(example.path).stem)
        if example.label != make_image(number).label or not np.array_equal(
            feature, make_features(range(number, number + 1))[0]
        ):
            losses.append(f"row {number} is wrong")
    return losses


def resume_and_verify(store: Path, num_safe: int, num_rows: int = NUM_ROWS) -> list[str]:
    """Goes on after a fault, and looks at everything that must hold.

    Args:
        store: the store as the fault left it.
        num_safe: how many features were acknowledged before the fault.
        num_rows: how many there are to be in the end.

    Returns:
        A line for each thing that does not hold.
    """
    problems = find_losses(store, num_safe) if num_safe else []
    num_computed = extend_store(store, num_rows, lambda _: None)
    # What was not acknowledged is computed, and of what was, nothing.
    if num_computed > num_rows - num_safe:
        problems.append(f"{num_computed} features were computed where {num_rows - num_safe} were missing")
    problems += find_losses(store, num_rows)
    found = find_problems(store, read_data=True, images=None, advance=lambda _: None)
    if len(FeatureStore(store).examples) != num_rows:
        problems.append(f"{len(FeatureStore(store).examples)} examples instead of {num_rows}")
    return problems + [f"{problem.where}: {problem.what}" for problem in found]
