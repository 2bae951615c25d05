"""Rows of features as HDF5 chunks: compressed and decompressed here, in several threads, instead of by HDF5.

Before version 3.16, h5py does not take its lock `phil` when it reads or writes a chunk directly (h5py's pull request
2764), so it is taken here: two threads in HDF5 read wrong bytes or crash.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import h5py
import numpy as np
from h5py._objects import phil
from zlib_ng import zlib_ng

from features.options import Compression
from features.schema import FEATURE_DTYPE, Features
from features.shards.compression import list_filters

_LEVEL, _MEMORY_LEVEL = 1, 9
_WEIGHTS = np.arange(8192, 0, -1, dtype=np.uint64)
"""Weights of the words of a block in the second sum of Fletcher-32; the sum of a block needs less than 64 bits."""
_INVALID_STREAM = cast("type[Exception]", zlib_ng.error)  # The package declares an instance.
_NUM_THREADS, _ROWS_PER_TASK = 4, 32


def encode_rows(features: Features, compression: Compression) -> list[bytes]:
    """Encode rows as HDF5 chunks, with their checksums; the interpreter's lock is released during compression.

    gzip looks for repetitions of the previous byte only (`Z_RLE`), because the repetitions in features are runs of
    zeros: mixed7, which is 86% zeros, takes 0.21 of its size instead of 0.25, in less than half of the time. The result
    depends on no hash table, so it does not depend on the processor. Byte shuffling would make it larger.

    Args:
        features: (n, ...) float16.
        compression: filter of the chunks.
    """
    chunks = []
    for row in np.asarray(features, FEATURE_DTYPE):
        data = row.tobytes()
        if compression is Compression.GZIP:
            compressor = zlib_ng.compressobj(_LEVEL, zlib_ng.DEFLATED, zlib_ng.MAX_WBITS, _MEMORY_LEVEL, zlib_ng.Z_RLE)
            data = compressor.compress(data) + compressor.flush()
        chunks.append(data + compute_fletcher32(data))
    return chunks


def compute_fletcher32(data: bytes) -> bytes:
    """Compute the checksum that HDF5's filter Fletcher-32 appends to a chunk, 4 bytes.

    Source: `H5_checksum_fletcher32` in HDF5's H5checksum.c. It adds big-endian words of 16 bits, with the carry added
    to the lowest bit, so a sum is 0 only if all words are 0.
    """
    words = np.frombuffer(data + bytes(len(data) % 2), ">u2").astype(np.uint64)
    first = second = 0
    for start in range(0, len(words), len(_WEIGHTS)):
        block = words[start : start + len(_WEIGHTS)]
        # The second sum adds the first one after each word, so word i of a block of n counts n - i times.
        second += len(block) * first + int(block @ _WEIGHTS[-len(block) :])
        first += int(block.sum())
    first, second = (total and (total - 1) % 0xFFFF + 1 for total in (first, second))
    return struct.pack("<I", second << 16 | first)


def create_features(
    file: h5py.File, num_rows: int, feature_shape: tuple[int, ...], compression: Compression
) -> h5py.Dataset:
    """Create the dataset `features`, to be filled with `write_rows`."""
    options: dict[str, Any] = {}
    if compression is Compression.GZIP:
        options = {"compression": "gzip", "compression_opts": _LEVEL}
    shape, chunks = (num_rows, *feature_shape), (1, *feature_shape)
    return file.create_dataset("features", shape, FEATURE_DTYPE, chunks=chunks, fletcher32=True, **options)


def write_rows(dataset: h5py.Dataset, start: int, chunks: Sequence[bytes]) -> None:
    """Write the chunks of consecutive rows."""
    with phil:
        place = (0,) * (dataset.ndim - 1)
        for row, chunk in enumerate(chunks, start):
            dataset.id.write_direct_chunk((row, *place), chunk)


def read_rows(dataset: h5py.Dataset, rows: Sequence[int], out: Features) -> None:
    """Read rows, in ascending order, into an array.

    gzip is decompressed here, because HDF5's filter takes twice as long and runs in one thread at a time.

    Raises:
        ValueError: a chunk is damaged.
        OSError: a chunk cannot be read.
    """
    if not _has_gzip_rows(dataset):
        _read_with_hdf5(dataset, rows, out)
        return

    def read(start: int) -> None:
        with phil:
            place = (0,) * (dataset.ndim - 1)
            chunks = [dataset.id.read_direct_chunk((row, *place)) for row in rows[start : start + _ROWS_PER_TASK]]
        for position, (mask, chunk) in enumerate(chunks, start):
            if mask:  # HDF5 may leave out a filter for a chunk.
                _read_with_hdf5(dataset, rows[position : position + 1], out[position : position + 1])
            else:
                out[position] = _decode_row(chunk, dataset.shape[1:])

    starts = range(0, len(rows), _ROWS_PER_TASK)
    if len(starts) == 1:
        read(0)
        return
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        list(pool.map(read, starts))


def recode_rows(dataset: h5py.Dataset, rows: Sequence[int]) -> list[bytes]:
    """Return rows, in ascending order, as `encode_rows` encodes them with gzip; chunks in that form are copied."""
    if _has_gzip_rows(dataset):
        with phil:
            place = (0,) * (dataset.ndim - 1)
            found = [dataset.id.read_direct_chunk((row, *place)) for row in rows]
        if not any(mask for mask, _ in found):
            return [chunk for _, chunk in found]
    features = np.empty((len(rows), *dataset.shape[1:]), FEATURE_DTYPE)
    read_rows(dataset, rows, features)
    return encode_rows(features, Compression.GZIP)


def _has_gzip_rows(dataset: h5py.Dataset) -> bool:
    """Return whether each row is a chunk as `encode_rows` makes it with gzip."""
    return (
        list_filters(dataset) == [h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32]
        and dataset.chunks == (1, *dataset.shape[1:])
        and dataset.dtype == FEATURE_DTYPE
    )


def _decode_row(chunk: bytes, shape: tuple[int, ...]) -> Features:
    data, checksum = chunk[:-4], chunk[-4:]
    if compute_fletcher32(data) != checksum:
        raise ValueError("a chunk with another Fletcher-32 checksum")
    num_bytes = int(np.prod(shape)) * FEATURE_DTYPE.itemsize
    decompressor = zlib_ng.decompressobj()
    try:
        # With the limit, a small chunk cannot fill the memory; one more byte lets zlib reach the end of the stream.
        values = decompressor.decompress(data, num_bytes + 1)
    except _INVALID_STREAM as error:
        raise ValueError(f"a chunk that is not compressed with gzip ({error})") from error
    if len(values) != num_bytes or not decompressor.eof:
        raise ValueError("a chunk of another size")
    return np.frombuffer(values, FEATURE_DTYPE).reshape(shape)


def _read_with_hdf5(dataset: h5py.Dataset, rows: Sequence[int], out: Features) -> None:
    """Read rows through the filters of HDF5; consecutive rows are read together."""
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end] != rows[end - 1] + 1:
            dataset.read_direct(out, np.s_[rows[start] : rows[end - 1] + 1], np.s_[start:end])
            start = end
