"""Near-duplicates: the nearest neighbours of each picture by its features, and groups of nearly equal pictures.

Features are averaged over height and width, standardised and whitened: variation that all pictures share, such as the
grid of solar cells, loses its weight. Two pictures are compared by the cosine of their whitened features. Each distance
is divided by the distance of an ordinary neighbour, so that similarity has the same meaning in every set of pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from base.errors import UsageError
from base.terminal import Console
from features.store import Example, FeatureStore
from features.validation_split import choose_representatives
from train_head.data.batches import Array
from train_head.evaluation.pooled import MAX_PICTURES, PooledFeatures
from train_head.reduction.cache import Neighbours, get, make_key, put
from train_head.reduction.matrix import open_workers

NEAR = 0.4
"""Smallest similarity at which two pictures count as nearly the same. Measured in docs/how-to/duplicates.md."""
NUM_NEIGHBOURS = 20
"""Number of neighbours of each picture. The last one is its ordinary neighbour, with similarity 0."""
ORDINARY_RATIO = 0.96
"""Smallest d20 / d40 of pictures that vary in many dimensions; see `find_neighbours`."""
MAX_GROUP_SHARE = 0.1
"""Groups with a larger share of the pictures, and more than `NUM_NEIGHBOURS`, are divided at higher similarities."""
_HIGHER_LIMITS = (0.5, 0.6, 0.7, 0.8, 0.9)
_BLOCK_NUMBERS = 2**22


def load_neighbours(pooled: PooledFeatures, console: Console) -> Neighbours | None:
    """Load the neighbours of some pictures from the store's `derived/`, or find and store them there.

    Args:
        pooled: features of pictures without copies, in the order of their content hashes.
        console: receives warnings about the cache, and the progress.

    Returns:
        The neighbours, with a row for each picture; None above `MAX_PICTURES`.

    Raises:
        FeatureStoreError: the features cannot be read.
    """
    store, num_pictures = pooled.store, len(pooled.examples)
    if num_pictures > MAX_PICTURES:
        return None
    key = make_key(store, [pooled.examples], NUM_NEIGHBOURS)
    if cached := get(store.derived_folder, key, Neighbours, console):
        return cached
    with console.progress("near-duplicates", num_pictures, "pictures") as progress:
        found = find_neighbours(pooled.values.astype(np.float32), progress.advance)
    with suppress(OSError):
        put(store.derived_folder, key, found)
    return found


def find_groups(store: FeatureStore, examples: Sequence[Example], console: Console) -> dict[bytes, bytes]:
    """Find groups of near-duplicates, and map the content hash of each picture to that of its group's representative.

    Raises:
        UsageError: more than `MAX_PICTURES` pictures.
        FeatureStoreError: the features cannot be read.
    """
    contents = list_contents(examples)
    neighbours = load_neighbours(PooledFeatures(store, contents), console)
    if neighbours is None:
        expected, got = f"content for more than {MAX_PICTURES:,} pictures", f"group for {len(contents):,}"
        raise UsageError("--split", expected, got, "Omit the option")
    groups: dict[int, list[bytes]] = {}
    for example, group in zip(contents, group_rows(neighbours).tolist(), strict=True):
        groups.setdefault(group, []).append(example.content_hash)
    return choose_representatives(groups.values())


def list_contents(examples: Sequence[Example]) -> list[Example]:
    """List one example for each content hash, in the order of the hashes."""
    first: dict[bytes, Example] = {}
    for example in sorted(examples, key=lambda example: example.path):
        first.setdefault(example.content_hash, example)
    return [first[content_hash] for content_hash in sorted(first)]


def find_neighbours(values: Array, advance: Callable[[int], None] = lambda _: None) -> Neighbours:
    """Find the nearest neighbours of each row.

    Similarity is 1 - (d / d20)^(1 / e). d is the cosine distance of two rows. d20 is the distance to the 20th neighbour
    of either row, whichever is smaller. e is 1, or more if d20 is much smaller than d40: then the pictures vary in few
    dimensions, and a neighbour that is much closer than others is no exception. Similarity is 1 for equal rows and 0
    for rows that are not closer than the 20th neighbour. Of few rows, a quarter and a half replace 20 and 40.

    Args:
        values: (n, channels) float32.
        advance: called with a number of rows after they are compared with all others.
    """
    kept, firsts = _find_distinct(values)
    units = _whiten(values[kept])
    num_rows = len(units)
    num_neighbours = min(NUM_NEIGHBOURS, max(1, (num_rows - 1) // 4), num_rows - 1)
    num_compared = min(2 * num_neighbours, num_rows - 1)
    rows = np.zeros((num_rows, num_neighbours), np.int32)
    distances = np.zeros((num_rows, num_compared), np.float32)

    def compare(block: slice) -> int:
        cosines = units[block] @ units.T
        numbers = np.arange(len(cosines))
        cosines[numbers, numbers + block.start] = -2
        found = np.argpartition(cosines, num_rows - num_compared, axis=1)[:, num_rows - num_compared :]
        found.sort(axis=1)
        distance = 1 - np.take_along_axis(cosines, found, axis=1)
        order = np.argsort(distance, axis=1, kind="stable")
        rows[block] = np.take_along_axis(found, order, axis=1)[:, :num_neighbours]
        distances[block] = np.take_along_axis(distance, order, axis=1)
        return len(cosines)

    similarities = np.zeros_like(rows, np.float32)
    if num_neighbours:
        step = max(1, _BLOCK_NUMBERS // num_rows)
        with open_workers() as workers:
            for num_done in workers.map(compare, (slice(n, n + step) for n in range(0, num_rows, step))):
                advance(num_done)
        distances = np.maximum(distances, np.float32(1e-7))
        ordinary = distances[:, num_neighbours - 1]
        exponents = np.maximum(np.log(ordinary / distances[:, -1]) / np.log(ORDINARY_RATIO), 1)
        ratios = distances[:, :num_neighbours] / np.minimum(ordinary[:, None], ordinary[rows])
        similarities = np.clip(1 - ratios ** (1 / np.maximum(exponents[:, None], exponents[rows])), 0, 1)
    order = np.argsort(-similarities, axis=1, kind="stable")
    place = np.searchsorted(kept, firsts)
    return Neighbours(
        firsts.astype(np.int32),
        kept.astype(np.int32)[np.take_along_axis(rows, order, axis=1)][place],
        np.take_along_axis(similarities, order, axis=1)[place].astype(np.float32),
    )


def group_rows(neighbours: Neighbours) -> NDArray[np.int64]:
    """Group rows that are connected by similarities of at least `NEAR`.

    Groups that are too large, see `MAX_GROUP_SHARE`, are divided at higher similarities. Equal rows stay together.

    Returns:
        (n,) the first row of each row's group.
    """
    num_rows = len(neighbours.firsts)
    largest = max(NUM_NEIGHBOURS, int(MAX_GROUP_SHARE * num_rows))
    starts, columns = np.nonzero(neighbours.similarities >= NEAR)
    ends, similarities = neighbours.rows[starts, columns], neighbours.similarities[starts, columns]
    equal = np.arange(num_rows), neighbours.firsts
    groups = _connect(num_rows, np.append(starts, equal[0]), np.append(ends, equal[1]))
    for limit in _HIGHER_LIMITS:
        is_large = np.bincount(groups, minlength=num_rows)[groups] > largest
        if not is_large.any():
            break
        keeps = ~is_large[starts] | (similarities >= limit)
        groups = _connect(num_rows, np.append(starts[keeps], equal[0]), np.append(ends[keeps], equal[1]))
        starts, ends, similarities = starts[keeps], ends[keeps], similarities[keeps]
    return groups


def _connect(num_rows: int, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the (n,) first row of each row's connected component."""
    groups = np.arange(num_rows)
    while True:
        lowest = groups.copy()
        np.minimum.at(lowest, starts, groups[ends])
        np.minimum.at(lowest, ends, groups[starts])
        lowest = lowest[lowest]
        if np.array_equal(lowest, groups):
            return groups
        groups = lowest


def _find_distinct(values: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first row of each set of equal rows, ascending, and for each row the first row equal to it."""
    _, kept, places = np.unique(values, axis=0, return_index=True, return_inverse=True)
    return np.sort(kept), kept[places.reshape(-1)]


def _whiten(values: Array) -> Array:
    """Standardise and whiten rows, and scale them to length 1.

    The covariance of n rows is known only up to about 1/n of its trace, which is added to each eigenvalue. Without it,
    whitening fewer rows than channels would make all of them equally far apart.
    """
    moved = values - values.mean(axis=0, dtype=np.float64).astype(np.float32)
    spread = moved.std(axis=0, dtype=np.float64)
    varies = spread > 1e-6 * max(float(np.abs(values).max(initial=0)), 1e-30)
    if not varies.any():
        return np.zeros_like(values)
    moved = moved[:, varies] / spread[varies].astype(np.float32)
    covariance = np.zeros((moved.shape[1],) * 2)
    step = 4096
    with open_workers():
        for start in range(0, len(moved), step):
            part = moved[start : start + step].astype(np.float64)
            covariance += part.T @ part
        eigenvalues, vectors = np.linalg.eigh(covariance / len(moved))
        scales = 1 / np.sqrt(np.maximum(eigenvalues, 0) + eigenvalues.sum() / len(moved))
        whitened: Array = moved @ (vectors * scales).astype(np.float32)
    lengths = np.linalg.norm(whitened, axis=1, keepdims=True)
    return np.asarray(whitened / np.maximum(lengths, np.float32(1e-12)), np.float32)
