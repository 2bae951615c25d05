"""Reads a packed store: one plain HDF5 file that `python -m features pack` made."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from features.compression import load_filters
from features.durable import hash_file
from features.errors import FeatureStoreError, ShardDamagedError, StoreMissingError
from features.foreign import check_file, map_file
from features.hdf5 import read_texts
from features.schema import (
    FEATURE_DTYPE,
    SCHEMA_VERSION,
    FeatureKey,
    Features,
    FeatureStatus,
    Fingerprint,
    ImageStatus,
    Origin,
)
from features.store import StoreContents
from features.tables import ImageRow, Location, refuse_outside

PACK_KIND = "headstart packed store"
_TODO = "Pack the store again with `python -m features pack`"


def load_pack(path: Path) -> StoreContents:
    """Reads everything of a packed store but its features.

    Raises:
        StoreMissingError: the file is no packed store.
        FeatureStoreError: it is of another schema version, or damaged.
    """
    try:
        with h5py.File(path, "r") as file, map_file(path) as data:
            check_file(file, data)
            if "kind" not in file.attrs or read_texts(file, "kind") != [PACK_KIND]:
                raise StoreMissingError(path, "a feature store", "another HDF5 file", "Give another --store")
            version = int(file.attrs["headstart_schema_version"])
            if version != SCHEMA_VERSION:
                raise FeatureStoreError(path, f"schema version {SCHEMA_VERSION}", str(version), _TODO)
            fingerprint = Fingerprint.from_json(*read_texts(file, "fingerprint"))
            origin = Origin.from_json(*read_texts(file, "origin"))
            (images_folder,) = read_texts(file, "images_folder")
            class_names = read_texts(file, "class_names")
            paths, splits = (_read_text(file[name]) for name in ("paths", "splits"))
            labels = [class_names[number] for number in file["labels"][:].astype(np.uint32).tolist()]
            hashes = [row.tobytes() for row in file["content_hashes"][:].reshape(len(paths), 32)]
            # Files from before there were views hold the first of each.
            views = file["views"][:].tolist() if "views" in file else [0] * len(hashes)
            expected = (len(paths), *origin.feature_shape)
            if file["features"].shape != expected or file["features"].dtype != FEATURE_DTYPE:
                raise FeatureStoreError(path, f"features of {expected}", str(file["features"].shape), _TODO)
            if not len(paths) == len(splits) == len(labels) == len(views):
                raise ValueError("columns of different lengths")
            refuse_outside(paths)
    except (OSError, LookupError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise StoreMissingError(path, "a packed store", str(error), _TODO) from error
    images = [
        ImageRow(image_path, label, split, 0, 0, content_hash, ImageStatus.DONE)
        for image_path, label, split, content_hash, view in zip(paths, labels, splits, hashes, views, strict=True)
        if view == 0
    ]
    locations = {
        FeatureKey(content_hash, view): Location(0, row, FeatureStatus.OK)
        for row, (content_hash, view) in enumerate(zip(hashes, views, strict=True))
    }
    digests: dict[int, str] = {}

    def hash_pack(number: int) -> str:
        if number not in digests:
            digests[number] = hash_file(path)
        return digests[number]

    return StoreContents(
        fingerprint,
        origin,
        images_folder,
        images,
        locations,
        shards=[],
        read_rows=partial(_read_rows, path),
        hash_shard=hash_pack,
        locate_shard=lambda _: path,
    )


def _read_rows(path: Path, _: int, rows: Sequence[int], out: Features) -> None:
    try:
        with h5py.File(path, "r") as file:
            load_filters(file["features"])
            for start, stop, position in _find_runs(rows):
                file["features"].read_direct(out, np.s_[start:stop], np.s_[position : position + stop - start])
    except (OSError, KeyError, RuntimeError) as error:
        raise ShardDamagedError(path, "sound features", str(error), _TODO) from error


def _find_runs(rows: Sequence[int]) -> list[tuple[int, int, int]]:
    """Groups ascending rows into runs of neighbours: (start, stop, position of the first)."""
    runs: list[tuple[int, int, int]] = []
    for position, row in enumerate(rows):
        if runs and runs[-1][1] == row:
            runs[-1] = (runs[-1][0], row + 1, runs[-1][2])
        else:
            runs.append((row, row + 1, position))
    return runs


def _read_text(dataset: h5py.Dataset) -> list[str]:
    return [value.decode("utf-8", "surrogateescape") for value in dataset[:].tolist()]
