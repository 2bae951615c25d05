"""Write a packed store: a single HDF5 file with one row for each view of an example."""

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
from base.invocation import format_command
from base.replace import hold_target
from base.signals import defer_interrupt
from base.target import Target
from features.catalog.tables import encode_text
from features.contents import UnusableImage, UnusableReason
from features.labels import LABELS_KEY
from features.options import Compression
from features.packed.read import MISSING_GROUP, PACK_KIND
from features.packed.view import label_dimensions
from features.schema import FEATURE_DTYPE, SCHEMA_VERSION, encode_json
from features.shards.chunks import create_features, encode_rows, write_rows
from features.shards.hdf5 import ErrorRecordingFile, create_file, write_texts
from features.store import Example, FeatureStore

ROWS_PER_BLOCK = 256
_MIN_COMPRESSION_RATIO = 0.15
"""Lower bound of compressed to uncompressed bytes, for the check of free space before the work."""


def pack_store(store: FeatureStore, out: Path, compression: Compression, advance: Callable[[int], None]) -> int:
    """Write the examples of a store to a new file, which appears when it is complete.

    Args:
        store: store to pack.
        out: file to write.
        compression: compression of the features.
        advance: called with the number of rows written since the last call.

    Returns:
        The number of rows, one for each view of an example.

    Raises:
        UsageError: `out` exists, or its folder does not.
        FeatureStoreError: the store has no usable features.
        StoreWriteError: the disk has too little free space, or a write failed.
    """
    if not out.parent.is_dir():
        raise UsageError(
            out, "a path in an existing folder", f"no folder {out.parent}", "Create the folder or give another path"
        )
    _require_free_path(out)
    if not store.examples:
        command = format_command("extract", "--images", store.images_folder or "PICTURES", "--store", store.path)
        raise FeatureStoreError(store.path, "usable features to pack", "none", f"Run `{command}` first")
    rows = list_rows(store)
    ratio = 1 if compression is Compression.NONE else _MIN_COMPRESSION_RATIO
    require_space(out.parent, int(len(rows) * prod(store.feature_shape) * FEATURE_DTYPE.itemsize * ratio))
    with hold_target(Target(out, {}, _require_free_path, "OUT.h5")):
        _require_free_path(out)
        try:
            with atomic_file(out) as file:
                _write(store, rows, ErrorRecordingFile(file.fileno()), compression, advance)
        except OSError as error:
            got, advice = error.strerror or str(error), "Free some space and try again"
            raise StoreWriteError(out, "free space for the packed store", got, advice) from error
    return len(rows)


def list_rows(store: FeatureStore) -> list[Example]:
    """List the rows of the packed store: every usable view of every example."""
    return [view for example in store.examples for view in store.list_views(example, store.num_views)]


def is_packed(store: FeatureStore, out: Path) -> bool:
    """Return whether a file already has the contents of a store, so that a repeated command succeeds.

    Feature values are not compared, because fingerprint, content hash and view determine them.
    """
    if not is_regular(out):
        return False
    try:
        return _identify(FeatureStore(out)) == _identify(store)
    except FeatureStoreError:
        return False


def _identify(store: FeatureStore) -> tuple[object, ...]:
    """Return the contents that a store and its packed store have in common, except the feature values."""
    unusable = [(found.image.path, found.image.label, found.reason) for found in store.list_unusable()]
    return (
        store.fingerprint,
        store.contents.labels,
        unusable,
        [row._replace(shard=0, row=0) for row in list_rows(store)],
    )


def _require_free_path(out: Path) -> None:
    if os.path.lexists(out):
        raise UsageError(
            out, "a path that does not exist", "an existing file or folder", "Remove it or give another path"
        )


def _write(
    store: FeatureStore,
    rows: Sequence[Example],
    target: ErrorRecordingFile,
    compression: Compression,
    advance: Callable[[int], None],
) -> None:
    # In the order of the shards, so that each shard is read once.
    examples = sorted(rows, key=lambda example: (example.shard, example.row, encode_text(example.path)))
    try:
        # HDF5 would report an interrupt during a write as a failed write.
        with ExitStack() as stack:
            with defer_interrupt():
                file = create_file(target)
                stack.callback(_close, file)
                features = _create(store, file, examples, compression)
            for start in range(0, len(examples), ROWS_PER_BLOCK):
                block = encode_rows(store.read(examples[start : start + ROWS_PER_BLOCK]), compression)
                with defer_interrupt():
                    write_rows(features, start, block)
                target.check()
                advance(len(block))
    finally:
        # The first write error is the cause; an error of HDF5 is only its consequence.
        target.check()


def _close(file: h5py.File) -> None:
    with defer_interrupt():
        file.close()


def _create(
    store: FeatureStore, file: h5py.File, examples: Sequence[Example], compression: Compression
) -> h5py.Dataset:
    """Write all data except the feature values, and return the dataset for them."""
    # In a multi-label store, these are the stored combinations of classes.
    class_names = sorted({example.label for example in store.examples})
    number_of = {label: number for number, label in enumerate(class_names)}
    # A packed store may be shared, so it must not contain a path of this machine.
    origin = replace(store.origin, weights_file=Path(store.origin.weights_file).name)
    file.attrs["headstart_schema_version"] = SCHEMA_VERSION
    write_texts(file, "kind", [PACK_KIND])
    write_texts(file, "fingerprint", [store.fingerprint.encode()])
    write_texts(file, "origin", [encode_json(asdict(origin))])
    write_texts(file, "images_folder", [""])
    write_texts(file, "class_names", class_names)
    if labels := store.contents.labels.encode():
        write_texts(file, LABELS_KEY, [labels])
    features = create_features(file, len(examples), store.feature_shape, compression)
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
    """Write the images without a row, with the reasons."""
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
    # Only chunked datasets have checksums; text of variable length would be in a heap, which has none.
    group.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)
