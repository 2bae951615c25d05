"""Chunks that are compressed and decompressed without HDF5."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Sequence

import h5py
import numpy as np
import pytest

from features.options import Compression
from features.schema import Features
from features.shards.chunks import compute_fletcher32, create_features, encode_rows, read_rows, write_rows

pytestmark = pytest.mark.unit

SHAPE = (2, 2, 3)
SIZES = [1, 2, 3, 719, 720, 721, 2 * 8192, 2 * 8192 + 1, 50_001]


def make_features(num_rows: int, shape: tuple[int, ...] = SHAPE) -> Features:
    """Return features of which 86% are zeros, as in mixed7."""
    rng = np.random.default_rng(0)
    features = rng.exponential(0.6, (num_rows, *shape)).astype(np.float16)
    features[rng.random(features.shape) < 0.86] = 0
    return features


def let_hdf5_append_fletcher32(data: bytes) -> bytes:
    """Return the chunk that HDF5 stores for bytes with its filter Fletcher-32."""
    with h5py.File(io.BytesIO(), "w") as file:
        values = np.frombuffer(data, np.uint8)
        dataset = file.create_dataset("d", data=values, chunks=values.shape, fletcher32=True)
        file.flush()
        return bytes(dataset.id.read_direct_chunk((0,))[1])


@pytest.mark.parametrize("num_bytes", SIZES)
def test_compute_fletcher32_is_the_checksum_of_hdf5(num_bytes: int) -> None:
    random = np.random.default_rng(num_bytes).integers(0, 256, num_bytes, np.uint8).tobytes()
    for data in [
        random,
        bytes(num_bytes),
        b"\xff" * num_bytes,
        bytes(num_bytes - 1) + b"\x01",
        (b"\x00\x01\xff\xfe" * num_bytes)[:num_bytes],
    ]:
        assert data + compute_fletcher32(data) == let_hdf5_append_fletcher32(data)


def test_encode_rows_gzip_is_a_zlib_stream_of_the_row_and_shorter_than_at_level_1() -> None:
    features = make_features(2, (7, 7, 96))
    for row, chunk in zip(features, encode_rows(features, Compression.GZIP), strict=True):
        assert zlib.decompress(chunk[:-4]) == row.tobytes()
        assert len(chunk) < 0.9 * len(zlib.compress(row.tobytes(), 1))


def test_encode_rows_that_do_not_shrink_are_longer_by_a_few_bytes() -> None:
    noise = np.random.default_rng(0).integers(0, 2**16, (1, 5000), np.uint16).view(np.float16)
    (chunk,) = encode_rows(noise, Compression.GZIP)
    assert zlib.decompress(chunk[:-4]) == noise.tobytes()
    assert len(chunk) < noise.nbytes + 40


def read_chunks(chunks: Sequence[bytes], rows: Sequence[int], compression: Compression, mask: int = 0) -> Features:
    """Write chunks to a file with `write_rows`, or each with a filter mask, and read some of them."""
    with h5py.File(io.BytesIO(), "w") as file:
        dataset = create_features(file, len(chunks), SHAPE, compression)
        if mask:
            for row, chunk in enumerate(chunks):
                dataset.id.write_direct_chunk((row, 0, 0, 0), chunk, mask)
        else:
            write_rows(dataset, 0, chunks)
        file.flush()
        out = np.empty((len(rows), *SHAPE), np.float16)
        read_rows(dataset, rows, out)
        return out


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("rows", [[], [5], [0, 1, 7, 8, 9, 99], list(range(100)), list(range(0, 100, 2))], ids=len)
def test_read_rows_returns_the_rows_in_order(rows: list[int], compression: Compression) -> None:
    features = make_features(100)
    read = read_chunks(encode_rows(features, compression), rows, compression)
    np.testing.assert_array_equal(read, features[rows])


def test_read_rows_without_a_filter_that_hdf5_left_out() -> None:
    features = make_features(40)
    # Bit 0 of the mask is the first filter, gzip.
    read = read_chunks(encode_rows(features, Compression.NONE), range(40), Compression.GZIP, mask=1)
    np.testing.assert_array_equal(read, features)


@pytest.mark.parametrize(
    "damage",
    [
        lambda chunk: chunk[:9] + bytes([chunk[9] ^ 1]) + chunk[10:],
        lambda chunk: chunk[:3],
        lambda chunk: add_checksum(chunk[:-5]),
        lambda chunk: add_checksum(b"not compressed"),
        lambda chunk: add_checksum(b""),
        lambda chunk: add_checksum(zlib.compress(bytes(2**20))),
        lambda chunk: add_checksum(zlib.compress(bytes(22))),
    ],
    ids=["flipped bit", "short", "truncated", "other bytes", "empty", "too large", "too small"],
)
def test_read_rows_damaged_chunk_is_an_error(damage: Callable[[bytes], bytes]) -> None:
    chunks = encode_rows(make_features(40), Compression.GZIP)
    chunks[37] = damage(chunks[37])
    with pytest.raises(ValueError, match="chunk"):
        read_chunks(chunks, range(40), Compression.GZIP)


def add_checksum(data: bytes) -> bytes:
    return data + compute_fletcher32(data)
