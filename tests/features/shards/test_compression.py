"""Chunks that are compressed without HDF5."""

from __future__ import annotations

import io
import zlib

import h5py
import numpy as np
import pytest

from features.shards.compression import Compression, compute_fletcher32, encode_rows

pytestmark = pytest.mark.unit

SIZES = [1, 2, 3, 719, 720, 721, 2 * 8192, 2 * 8192 + 1, 50_001]


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
    rng = np.random.default_rng(0)
    features = rng.exponential(0.6, (2, 7, 7, 96)).astype(np.float16)
    features[rng.random(features.shape) < 0.86] = 0
    for row, chunk in zip(features, encode_rows(features, Compression.GZIP), strict=True):
        assert zlib.decompress(chunk[:-4]) == row.tobytes()
        assert len(chunk) < 0.9 * len(zlib.compress(row.tobytes(), 1))


def test_encode_rows_that_do_not_shrink_are_longer_by_a_few_bytes() -> None:
    noise = np.random.default_rng(0).integers(0, 2**16, (1, 5000), np.uint16).view(np.float16)
    (chunk,) = encode_rows(noise, Compression.GZIP)
    assert zlib.decompress(chunk[:-4]) == noise.tobytes()
    assert len(chunk) < noise.nbytes + 40
