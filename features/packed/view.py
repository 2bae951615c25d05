"""`features.h5`: all shards as one HDF5 file, for h5py, h5web and HDFView; nothing here reads it.

A virtual dataset answers a missing shard with fill values and no error, so training reads shards.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from base.files import write_durably
from features.schema import FEATURE_DTYPE, SCHEMA_VERSION
from features.shards.hdf5 import build_file
from features.shards.shard import SHARD_FOLDER
from features.store import load_folder

VIEW_NAME = "features.h5"
FILL_VALUE = np.float16(np.nan)
"""What a missing shard's features read as: NaN is noticed, zeros would not be."""


def write_view(store: Path) -> None:
    """Writes the view of a store's committed shards anew."""
    write_durably(store / VIEW_NAME, encode_view(store))


def encode_view(store: Path) -> bytes:
    """Encodes the view.

    Rows are the shards' rows in the order of the shards, so that each shard is one mapping. A row's path,
    label and split are those of the first image with its content; empty where no image has it any more.
    """
    opened = load_folder(store)
    images = {image.content_hash: image for image in reversed(opened.images) if image.content_hash}
    offsets, num_rows = {}, 0
    for shard in opened.shards:
        offsets[shard.number] = num_rows
        num_rows += shard.num_rows
    columns: dict[str, list[str]] = {name: [""] * num_rows for name in ("paths", "labels", "splits", "statuses")}
    views = np.zeros(num_rows, np.uint16)
    for key, place in opened.locations.items():
        row = offsets[place.shard] + place.row
        views[row] = key.view
        columns["statuses"][row] = place.status.value
        image = images.get(key.content_hash)
        if image is not None:
            columns["paths"][row], columns["labels"][row] = image.path, image.label
            columns["splits"][row] = image.split

    def fill(file: h5py.File) -> None:
        file.attrs["headstart_schema_version"] = SCHEMA_VERSION
        file.attrs["fingerprint"] = opened.fingerprint.encode()
        layout = h5py.VirtualLayout((num_rows, *opened.origin.feature_shape), FEATURE_DTYPE)
        for shard in opened.shards:
            start = offsets[shard.number]
            source = h5py.VirtualSource(
                f"{SHARD_FOLDER}/{shard.name}",
                "features",
                (shard.num_rows, *opened.origin.feature_shape),
                FEATURE_DTYPE,
            )
            layout[start : start + shard.num_rows] = source
        features = file.create_virtual_dataset("features", layout, fillvalue=FILL_VALUE)
        label_dimensions(features)
        write_columns(file, columns)
        file.create_dataset("views", data=views)

    return build_file(fill)


def label_dimensions(features: h5py.Dataset) -> None:
    """Names the axes of a features dataset, as HDF5 viewers show them."""
    names = ("row", "y", "x", "channel") if features.ndim == 4 else ("row", *["axis"] * (features.ndim - 1))
    for dimension, name in zip(features.dims, names, strict=True):
        dimension.label = name


def write_columns(file: h5py.File, columns: dict[str, list[str]]) -> None:
    """Writes columns of text; bytes of a path that are not UTF-8 stay as they are."""
    for name, values in columns.items():
        encoded = [value.encode("utf-8", "surrogateescape") for value in values]
        file.create_dataset(name, data=np.array(encoded, object), dtype=h5py.string_dtype("utf-8"))
