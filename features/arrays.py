"""Reads NumPy's files from elsewhere: plain arrays, and none that declares more than is stored of it."""

from __future__ import annotations

import zipfile
from math import prod
from pathlib import Path
from typing import IO, Any

from numpy.lib import format as numpy_format
from numpy.typing import NDArray


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Reads an uncompressed `.npz`, as `numpy.savez` writes it. Source: `numpy.lib.format`.

    Raises:
        ValueError: something in it is compressed, pickled, or declares another size than is stored.
        OSError, zipfile.BadZipFile: the file cannot be read.
    """
    arrays = {}
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        if file.seek(0) == 0 and file.read(4) != b"PK\x03\x04":
            raise ValueError("something before the first array")
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise ValueError("arrays that overlap")
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise ValueError(f"{member.filename} is compressed")
            with archive.open(member) as stream:
                arrays[member.filename.removesuffix(".npy")] = _read_array(stream, member.file_size)
    return arrays


def load_array(path: Path) -> NDArray[Any]:
    """Reads a `.npy`, as `numpy.save` writes it.

    Raises:
        ValueError: it is pickled, or declares another size than is stored.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return _read_array(file, path.stat().st_size)


def _read_array(stream: IO[bytes], num_bytes: int) -> NDArray[Any]:
    version = numpy_format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of NumPy's format")
    read_header = numpy_format.read_array_header_1_0 if version == (1, 0) else numpy_format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if dtype.hasobject:
        raise ValueError("pickled objects")
    if prod(shape) * dtype.itemsize != num_bytes - stream.tell():
        raise ValueError(f"{dtype} {shape} is declared, and {num_bytes - stream.tell():,} bytes are stored")
    stream.seek(0)
    array: NDArray[Any] = numpy_format.read_array(stream, allow_pickle=False)
    return array
