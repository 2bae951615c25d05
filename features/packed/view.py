"""View `features.h5`: all shards as one HDF5 file, for h5py, h5web and HDFView.

No command reads it: a virtual dataset returns fill values for a missing shard, instead of an error.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from base.files import write_durably
from features.catalog.catalog import Catalog
from features.catalog.tables import encode_text
from features.contents import load_folder, pause_collector
from features.schema import FEATURE_DTYPE, SCHEMA_VERSION, VIEW_NAME
from features.shards.hdf5 import build_file
from features.shards.shard import SHARD_FOLDER

VIEW_KEY = "view"
"""Key in the catalog of the contents for which the view was written; missing until it was written once."""
FILL_VALUE = np.float16(np.nan)
"""Value of the features of a missing shard; unlike zeros, NaN is noticed."""


def update_view(store: Path, catalog: Catalog) -> None:
    """Write the view, unless it was written for the same contents of the catalog, which must be writable."""
    contents = catalog.describe_contents()
    if catalog.read_meta(VIEW_KEY) != contents or not (store / VIEW_NAME).is_file():
        write_view(store)
        catalog.write_meta(VIEW_KEY, contents)


@pause_collector()
def write_view(store: Path) -> None:
    """Write the view of the committed shards of a store.

    Rows are in the order of the shards. Path, label and split of a row are those of the first image with the same
    content, or empty if the folder has no such image.
    """
    contents = load_folder(store)
    images = {image.content_hash: image for image in reversed(contents.images) if image.content_hash}
    offsets, num_rows = {}, 0
    for shard in contents.shards:
        offsets[shard.number] = num_rows
        num_rows += shard.num_rows
    columns = {name: [""] * num_rows for name in ("paths", "labels", "splits", "statuses")}
    views = np.zeros(num_rows, np.uint16)
    for key, location in contents.locations.items():
        row = offsets[location.shard] + location.row
        views[row] = key.view
        columns["statuses"][row] = location.status.value
        if image := images.get(key.content_hash):
            columns["paths"][row], columns["labels"][row] = image.path, image.label
            columns["splits"][row] = image.split

    def fill(file: h5py.File) -> None:
        file.attrs["headstart_schema_version"] = SCHEMA_VERSION
        file.attrs["fingerprint"] = contents.fingerprint.encode()
        shape = contents.origin.feature_shape
        layout = h5py.VirtualLayout((num_rows, *shape), FEATURE_DTYPE)
        for shard in contents.shards:
            start, name = offsets[shard.number], f"{SHARD_FOLDER}/{shard.name}"
            source = h5py.VirtualSource(name, "features", (shard.num_rows, *shape), FEATURE_DTYPE)
            layout[start : start + shard.num_rows] = source
        label_dimensions(file.create_virtual_dataset("features", layout, fillvalue=FILL_VALUE))
        for name, values in columns.items():
            encoded = np.array([encode_text(value) for value in values], object)
            file.create_dataset(name, data=encoded, dtype=h5py.string_dtype("utf-8"))
        file.create_dataset("views", data=views)

    write_durably(store / VIEW_NAME, build_file(fill))


def label_dimensions(features: h5py.Dataset) -> None:
    """Label the axes of a features dataset, for HDF5 viewers."""
    names = ("row", "y", "x", "channel") if features.ndim == 4 else ("row", *["axis"] * (features.ndim - 1))
    for dimension, name in zip(features.dims, names, strict=True):
        dimension.label = name
