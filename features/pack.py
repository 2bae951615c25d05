"""Writes a store as one plain HDF5 file: a row for each view of an example, with path, label and split."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from features.compression import Compression, list_compression_options
from features.durable import PARTIAL_PREFIX, require_space, sync_folder
from features.errors import FeatureStoreError, StoreWriteError, UsageError
from features.hdf5 import write_texts
from features.packed import PACK_KIND
from features.schema import FEATURE_DTYPE, SCHEMA_VERSION, encode_json
from features.store import Example, FeatureStore
from features.view import label_dimensions

ROWS_PER_BLOCK = 256


def pack_store(store: FeatureStore, out: Path, compression: Compression, advance: Callable[[int], None]) -> int:
    """Packs the examples of a store.

    Args:
        store: what to pack.
        out: the file to write; must not exist.
        compression: of the features.
        advance: told how many rows are done.

    Returns:
        How many rows were packed, one for each view. The file appears when it is whole.

    Raises:
        UsageError: `out` exists.
        FeatureStoreError: there is nothing to pack.
        StoreWriteError: there is no room.
    """
    if out.exists():
        raise UsageError(out, "a name that is free", "a file of that name", "Remove it, or give another name")
    if not out.parent.is_dir():
        raise UsageError(out, "a name in a folder that exists", f"no folder {out.parent}", "Make it, or give another")
    if not store.examples:
        raise FeatureStoreError(store.path, "features to pack", "none", "Run `python -m extract` first")
    rows = [view for example in store.examples for view in store.list_views(example, store.num_views)]
    require_space(out.parent, sum(shard.num_bytes for shard in store.shards))
    partial = out.with_name(PARTIAL_PREFIX + out.name)
    try:
        _write(store, rows, partial, compression, advance)
        descriptor = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        partial.replace(out)
        sync_folder(out.parent)
    except OSError as error:
        raise StoreWriteError(out, "room for the packed store", str(error), "Make room, and run again") from error
    finally:
        partial.unlink(missing_ok=True)
    return len(rows)


def _write(
    store: FeatureStore,
    rows: Sequence[Example],
    path: Path,
    compression: Compression,
    advance: Callable[[int], None],
) -> None:
    # In the shards' order each shard is read once; viewers sort by label or path if they want to.
    examples = sorted(rows, key=lambda example: (example.shard, example.row, example.path))
    class_names = sorted({example.label for example in examples})
    number_of = {label: number for number, label in enumerate(class_names)}
    shape = store.feature_shape
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file.attrs["headstart_schema_version"] = SCHEMA_VERSION
        write_texts(file, "kind", [PACK_KIND])
        write_texts(file, "fingerprint", [store.fingerprint.encode()])
        write_texts(file, "origin", [encode_json(asdict(store.origin))])
        write_texts(file, "images_folder", [store.images_folder])
        write_texts(file, "class_names", class_names)
        features = file.create_dataset(
            "features",
            (len(examples), *shape),
            FEATURE_DTYPE,
            chunks=(1, *shape),
            fletcher32=True,
            **list_compression_options(compression),
        )
        label_dimensions(features)
        for start in range(0, len(examples), ROWS_PER_BLOCK):
            block = examples[start : start + ROWS_PER_BLOCK]
            features[start : start + len(block)] = store.read(block)
            advance(len(block))
        _write_text(file, "paths", [example.path for example in examples])
        _write_text(file, "splits", [example.split for example in examples])
        _write_column(file, "labels", np.array([number_of[example.label] for example in examples], np.int32))
        hashes = np.frombuffer(b"".join(example.content_hash for example in examples), np.uint8)
        _write_column(file, "content_hashes", hashes.reshape(-1, 32))
        _write_column(file, "views", np.array([example.view for example in examples], np.int32))


def _write_text(file: h5py.File, name: str, values: list[str]) -> None:
    encoded = [value.encode("utf-8", "surrogateescape") for value in values]
    length = max(1, max(map(len, encoded)))
    _write_column(file, name, np.array(encoded, h5py.string_dtype("utf-8", length)))


def _write_column(file: h5py.File, name: str, values: NDArray[Any]) -> None:
    # Chunked, because only chunks carry a checksum; text of fixed length, because a heap has none.
    file.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)
