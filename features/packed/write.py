"""Write a store as one plain HDF5 file: a row for each view of an example, with path, label and split."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from base.errors import FeatureStoreError, StoreWriteError, UsageError
from base.files import atomic_file, is_regular, require_space
from base.replace import Target, hold_target
from base.signals import defer_interrupt
from features.catalog.tables import encode_text
from features.contents import UnusableImage, UnusableReason
from features.packed.read import MISSING_GROUP, PACK_KIND
from features.packed.view import label_dimensions
from features.schema import FEATURE_DTYPE, SCHEMA_VERSION, encode_json
from features.shards.compression import Compression, list_compression_options
from features.shards.hdf5 import ErrorRecordingFile, create_file, write_texts
from features.store import Example, FeatureStore

ROWS_PER_BLOCK = 256
_SMALLEST_SHARE = 0.2
"""Of compressed to plain bytes of features; a pack that needs more fails when the disk is full."""


def pack_store(store: FeatureStore, out: Path, compression: Compression, advance: Callable[[int], None]) -> int:
    """Pack the examples of a store into a new file, which appears when it is whole.

    Args:
        store: the store to pack.
        out: the file to write.
        compression: of the features.
        advance: called with the number of rows that were written since the last time.

    Returns:
        The number of rows, one for each view.

    Raises:
        UsageError: `out` exists.
        FeatureStoreError: there is nothing to pack.
        StoreWriteError: there is no room.
    """
    if not out.parent.is_dir():
        raise UsageError(out, "a name in a folder that exists", f"no folder {out.parent}", "Make it, or give another")
    _refuse_existing(out)
    if not store.examples:
        raise FeatureStoreError(store.path, "features to pack", "none", "Run `python -m extract` first")
    rows = list_rows(store)
    share = 1 if compression is Compression.NONE else _SMALLEST_SHARE
    require_space(out.parent, int(len(rows) * prod(store.feature_shape) * FEATURE_DTYPE.itemsize * share))
    with hold_target(Target(out, {}, _refuse_existing, "OUT.h5")):
        _refuse_existing(out)
        try:
            with atomic_file(out) as file:
                _write(store, rows, ErrorRecordingFile(file.fileno()), compression, advance)
        except OSError as error:
            raise StoreWriteError(
                out, "room for the packed store", error.strerror or str(error), "Make room, and run again"
            ) from error
    return len(rows)


def list_rows(store: FeatureStore) -> list[Example]:
    """List the rows of a pack: each view of each example."""
    return [view for example in store.examples for view in store.list_views(example, store.num_views)]


def is_packed(store: FeatureStore, out: Path) -> bool:
    """Return whether a file is a store's pack already, as after a command that was ended when the pack was whole.

    The features themselves are not compared: fingerprint, content hash and view determine them.
    """
    if not is_regular(out):
        return False
    try:
        return _identify(FeatureStore(out)) == _identify(store)
    except FeatureStoreError:
        return False


def _identify(store: FeatureStore) -> tuple[object, ...]:
    """Return everything that a pack holds of a store, except the features."""
    unusable = [(found.image.path, found.image.label, found.reason) for found in store.list_unusable()]
    return store.fingerprint, unusable, [row._replace(shard=0, row=0) for row in list_rows(store)]


def _refuse_existing(out: Path) -> None:
    if os.path.lexists(out):
        raise UsageError(out, "a name that is free", "a file of that name", "Remove it, or give another name")


def _write(
    store: FeatureStore,
    rows: Sequence[Example],
    target: ErrorRecordingFile,
    compression: Compression,
    advance: Callable[[int], None],
) -> None:
    # In the shards' order each shard is read once; viewers sort by label or path if they want to.
    examples = sorted(rows, key=lambda example: (example.shard, example.row, encode_text(example.path)))
    try:
        # An interrupt that came while HDF5 writes would be a failed write to it.
        with ExitStack() as stack:
            with defer_interrupt():
                file = create_file(target)
                stack.callback(_close, file)
                features = _create(store, file, examples, compression)
            for start in range(0, len(examples), ROWS_PER_BLOCK):
                block = store.read(examples[start : start + ROWS_PER_BLOCK])
                with defer_interrupt():
                    features[start : start + len(block)] = block
                target.check()
                advance(len(block))
    finally:
        # HDF5's own errors, where it reads what could not be written, are not the cause.
        target.check()


def _close(file: h5py.File) -> None:
    with defer_interrupt():
        file.close()


def _create(
    store: FeatureStore, file: h5py.File, examples: Sequence[Example], compression: Compression
) -> h5py.Dataset:
    """Write everything but the features, and return their dataset."""
    class_names = store.classes
    number_of = {label: number for number, label in enumerate(class_names)}
    # A pack is passed on: no path of this machine is in it.
    origin = replace(store.origin, weights_file=Path(store.origin.weights_file).name)
    file.attrs["headstart_schema_version"] = SCHEMA_VERSION
    write_texts(file, "kind", [PACK_KIND])
    write_texts(file, "fingerprint", [store.fingerprint.encode()])
    write_texts(file, "origin", [encode_json(asdict(origin))])
    write_texts(file, "images_folder", [""])
    write_texts(file, "class_names", class_names)
    shape, options = (len(examples), *store.feature_shape), list_compression_options(compression)
    features = file.create_dataset("features", shape, FEATURE_DTYPE, chunks=(1, *shape[1:]), fletcher32=True, **options)
    label_dimensions(features)
    _write_text(file, "paths", [example.path for example in examples])
    _write_text(file, "splits", [example.split for example in examples])
    _write_column(file, "labels", np.array([number_of[example.label] for example in examples], np.int32))
    _write_hashes(file, [example.content_hash for example in examples])
    _write_column(file, "views", np.array([example.view for example in examples], np.int32))
    if unusable := store.list_unusable():
        _write_missing(file.create_group(MISSING_GROUP), unusable)
    return features


def _write_missing(group: h5py.Group, unusable: Sequence[UnusableImage]) -> None:
    """Write the images that have no row, and why."""
    images = [found.image for found in unusable]
    statuses = [found.detail if found.reason is UnusableReason.UNSOUND else found.reason.value for found in unusable]
    _write_text(group, "paths", [image.path for image in images])
    _write_text(group, "labels", [image.label for image in images])
    _write_text(group, "splits", [image.split for image in images])
    _write_text(group, "statuses", statuses)
    _write_text(group, "reasons", [image.reason for image in images])
    _write_hashes(group, [image.content_hash or bytes(32) for image in images])


def _write_hashes(group: h5py.Group, hashes: Sequence[bytes]) -> None:
    _write_column(group, "content_hashes", np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32))


def _write_text(group: h5py.Group, name: str, values: list[str]) -> None:
    encoded = [encode_text(value) for value in values]
    length = max(1, max(map(len, encoded)))
    _write_column(group, name, np.array(encoded, h5py.string_dtype("utf-8", length)))


def _write_column(group: h5py.Group, name: str, values: NDArray[Any]) -> None:
    # Chunked, because only chunks carry a checksum; text of fixed length, because a heap has none.
    group.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)
