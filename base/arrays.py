"""Reads NumPy's files from elsewhere: plain arrays, and none that declares more than is stored of it."""

from __future__ import annotations

import io
import zipfile
from math import prod
from pathlib import Path
from typing import IO, Any

from numpy.lib import format as numpy_format
from numpy.typing import NDArray

from base.regular import RegularFile

_MAX_SIDE = 2**40


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Reads an uncompressed `.npz`, as `numpy.savez` writes it. Source: `numpy.lib.format`.

    Raises:
        ValueError: something in it is compressed, pickled, or declares another size than is stored.
        OSError, zipfile.BadZipFile: the file cannot be read.
    """
    with RegularFile(path, follow=True) as file:
        return _read_arrays(file, file.identity.num_bytes)


def parse_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """Parse the bytes of an `.npz` as `load_arrays` reads it."""
    return _read_arrays(io.BytesIO(data), len(data))


def _read_arrays(file: Any, num_bytes: int) -> dict[str, NDArray[Any]]:
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        if file.seek(0) == 0 and file.read(4) != b"PK\x03\x04":
            raise ValueError("something before the first array")
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise ValueError(f"{member.filename} is compressed")
        if sum(member.file_size for member in archive.infolist()) > num_bytes:
            raise ValueError("arrays that overlap")
        for member in archive.infolist():
            with archive.open(member) as stream:
                arrays[member.filename.removesuffix(".npy")] = _read_array(stream, member.file_size)
    return arrays


def load_array(path: Path) -> NDArray[Any]:
    """Reads a `.npy`, as `numpy.save` writes it.

    Raises:
        ValueError: it is pickled, or declares another size than is stored.
        OSError: the file cannot be read.
    """
    with RegularFile(path, follow=True) as file:
        return _read_array(file, file.identity.num_bytes)


def parse_array(data: bytes) -> NDArray[Any]:
    """Parse the bytes of a `.npy` as `load_array` reads it."""
    return _read_array(io.BytesIO(data), len(data))


def _read_array(stream: IO[bytes], num_bytes: int) -> NDArray[Any]:
    version = numpy_format.read_magic(stream)
    # The other versions are for headers that no plain array has, and make room for them before they are read.
    if version != (1, 0):
        raise ValueError(f"version {version} of NumPy's format")
    try:
        shape, _, dtype = numpy_format.read_array_header_1_0(stream)
    except Exception as error:
        # It is parsed as Python, and fails in as many ways.
        raise ValueError(f"no header of an array ({error or type(error).__name__})") from error
    if dtype.hasobject:
        raise ValueError("pickled objects")
    if not dtype.itemsize or not all(type(size) is int and 0 <= size <= _MAX_SIDE for size in shape):
        raise ValueError(f"{dtype} {shape} is declared")
    if prod(shape) * dtype.itemsize != num_bytes - stream.tell():
        raise ValueError(f"{dtype} {shape} is declared, and {num_bytes - stream.tell():,} bytes are stored")
    stream.seek(0)
    array: NDArray[Any] = numpy_format.read_array(stream, allow_pickle=False)
    return array
