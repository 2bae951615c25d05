"""Small stores of synthetic features, for tests that need no pictures."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from features.catalog.tables import ImageRow
from features.maintenance.check import find_problems
from features.options import Compression
from features.packed.write import pack_store
from features.schema import FeatureKey, Features, FeatureStatus, Fingerprint, ImageStatus, Origin
from features.store import FeatureStore
from features.store_writer import FeatureWriter

SHAPE = (2, 2, 3)


def make_fingerprint(**changes: object) -> Fingerprint:
    values: dict[str, object] = {
        "backbone": "InceptionV3",
        "weights_sha256": "ab" * 32,
        "cut": "mixed7",
        "image_size": 75,
        "decode_policy": "policy",
        "resize": "bilinear",
        "scale": "[-1, 1]",
        "precision": "float32",
        "engine": "tensorflow",
        "views": "none",
    }
    return Fingerprint(**(values | changes))  # type: ignore[arg-type]


def make_origin(shape: tuple[int, ...] = SHAPE) -> Origin:
    return Origin(shape, "random", "", "", {"keras": "3"})


def make_key(number: int) -> FeatureKey:
    return FeatureKey(hashlib.sha256(str(number).encode()).digest(), 0)


def make_features(numbers: Iterable[int], shape: tuple[int, ...] = SHAPE) -> Features:
    """Return the features of pictures, (n, *shape) float16; the values depend on the number of the picture only."""
    return np.stack([np.random.default_rng(number).random(shape, np.float32).astype(np.float16) for number in numbers])


def make_image(number: int, label: str = "", split: str = "") -> ImageRow:
    """Return the catalog entry of a picture: a cat for an even number, a dog for an odd one."""
    key = make_key(number)
    label = label or ("cats", "dogs")[number % 2]
    return ImageRow(f"{label}/{number:05}.jpg", label, split, 100 + number, 7, key.content_hash, ImageStatus.DONE)


def make_writer(store: Path, rows_per_shard: int = 4, cut: str = "mixed7") -> FeatureWriter:
    return FeatureWriter(store, make_fingerprint(cut=cut), make_origin(), rows_per_shard=rows_per_shard)


def add_features(
    writer: FeatureWriter,
    numbers: Sequence[int],
    statuses: Sequence[FeatureStatus] = (),
    shape: tuple[int, ...] = SHAPE,
) -> None:
    """Add the features of pictures, without their catalog entries; all are usable by default."""
    keys = [make_key(number) for number in numbers]
    writer.add_features(keys, make_features(numbers, shape), statuses or [FeatureStatus.OK] * len(numbers))


def fill_store(store: Path, numbers: Sequence[int], rows_per_shard: int = 4, cut: str = "mixed7") -> None:
    """Write the features and catalog entries of pictures to a new or existing store."""
    with make_writer(store, rows_per_shard, cut) as writer:
        writer.update_images([make_image(number) for number in numbers], [])
        if numbers:
            add_features(writer, numbers)
        writer.commit()


def copy_store(store: Path, numbers: range, rows_per_shard: int = 4, cut: str = "mixed7") -> Path:
    """Create the store that `fill_store` writes, as a copy of one that is written once per process."""
    return shutil.copytree(_write_once(numbers, rows_per_shard, cut), store, dirs_exist_ok=True)


@cache
def _write_once(numbers: range, rows_per_shard: int, cut: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="headstart-stores-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    fill_store(folder / "store", numbers, rows_per_shard, cut)
    return folder / "store"


def add_views(store: Path, numbers: range, views: range) -> None:
    """Add views of pictures: view v of picture n has the features of picture n + 1000 v."""
    with make_writer(store) as writer:
        for number in numbers:
            keys = [make_key(number)._replace(view=view) for view in views]
            features = make_features(number + 1000 * view for view in views)
            writer.add_features(keys, features, [FeatureStatus.OK] * len(keys))
        writer.commit()


def pack(store: Path | FeatureStore, out: Path, compression: Compression = Compression.GZIP) -> FeatureStore:
    """Pack a store into a file, and open the packed store."""
    pack_store(store if isinstance(store, FeatureStore) else FeatureStore(store), out, compression, lambda _: None)
    return FeatureStore(out)


def read_sorted(store: FeatureStore) -> Features:
    """Read the features of all examples, sorted by the number of the picture."""
    return store.read(sorted(store.examples, key=lambda example: example.path[-9:]))


def find_all_problems(store: Path) -> list[str]:
    """Check every byte of a store, and return the paths with a problem."""
    return [problem.where for problem in find_problems(store, read_data=True, images=None, advance=lambda _: None)]


def flip_byte(path: Path, position: int, mask: int = 1) -> None:
    """Change a byte of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(data)
