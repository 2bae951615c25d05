"""HDF5 files built in memory: the library never touches a live path, and equal content gives equal bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import h5py
import numpy as np


def build_file(fill: Callable[[h5py.File], None]) -> bytes:
    """Builds an HDF5 1.10 file in memory.

    Args:
        fill: makes the file's content.

    Returns:
        The file's bytes. The root has no time stamps, nor have datasets that h5py makes.
    """
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    # From version 1.10 on, HDF5's own structures carry checksums.
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    buffer = io.BytesIO()
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, buffer)
    with h5py.File(h5py.h5f.create(b"in memory", h5py.h5f.ACC_TRUNC, creation, access)) as file:
        fill(file)
    return buffer.getvalue()


def write_texts(file: h5py.File, name: str, texts: Sequence[str]) -> None:
    """Writes texts as an attribute, a single one as a scalar.

    Their length is fixed: text of variable length lies in a heap, which has no checksum. (That of shards is, since
    their digest covers it.)
    """
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    kind = h5py.string_dtype("utf-8", max(1, *map(len, encoded)) if encoded else 1)
    file.attrs.create(name, np.array(encoded[0] if len(encoded) == 1 else encoded, kind), dtype=kind)


def read_texts(file: h5py.File, name: str) -> list[str]:
    """Reads texts that are an attribute, of fixed or of variable length."""
    values = np.ravel(file.attrs[name]).tolist()
    return [value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value) for value in values]
