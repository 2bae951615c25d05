"""Write, verify and read one shard."""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest

from base.errors import FeatureStoreError, ShardDamagedError
from features.options import Compression
from features.schema import FeatureKey, FeatureStatus
from features.shards.chunks import encode_rows
from features.shards.shard import (
    SHARD_FOLDER,
    ShardHeader,
    ShardRef,
    encode_shard,
    open_shard,
    read_features,
    read_header,
    write_shard,
)
from tests.errors import raises
from tests.features.stores import SHAPE, flip_byte, make_features, make_fingerprint, make_key, make_origin

pytestmark = pytest.mark.unit

HEADER = ShardHeader(
    make_fingerprint(),
    make_origin(),
    [make_key(0), make_key(1), FeatureKey(make_key(1).content_hash, 3)],
    [FeatureStatus.OK, FeatureStatus.OVERFLOW, FeatureStatus.NONFINITE],
)
FEATURES = make_features(range(3))
ROWS = encode_rows(FEATURES, Compression.GZIP)


@pytest.fixture
def shard(tmp_path: Path) -> ShardRef:
    (tmp_path / SHARD_FOLDER).mkdir()
    return write_shard(tmp_path, 17, encode_shard(HEADER, ROWS), 3)


def read_row(folder: Path, shard: ShardRef) -> None:
    read_features(folder, shard, [0], np.empty((1, *SHAPE), np.float16))


def test_encode_shard_equal_rows_give_equal_bytes() -> None:
    assert encode_shard(HEADER, ROWS) == encode_shard(HEADER, ROWS)


def test_write_shard_name_has_the_number_and_the_digest(tmp_path: Path, shard: ShardRef) -> None:
    (path,) = (tmp_path / SHARD_FOLDER).iterdir()
    data = path.read_bytes()
    assert path.name == f"000017-{hashlib.sha256(data).hexdigest()}.h5"
    assert (shard.number, shard.num_rows, shard.num_bytes) == (17, 3, len(data))


def test_read_header_returns_the_written_header(tmp_path: Path, shard: ShardRef) -> None:
    with open_shard(tmp_path, shard) as file:
        assert read_header(file) == HEADER


@pytest.mark.parametrize("rows", [[0, 1, 2], [0, 2], [1]])
def test_read_features_returns_the_given_rows(tmp_path: Path, shard: ShardRef, rows: list[int]) -> None:
    out = np.empty((len(rows), *SHAPE), np.float16)
    read_features(tmp_path, shard, rows, out)
    np.testing.assert_array_equal(out, FEATURES[rows])


def test_shard_is_readable_by_h5py_with_checksums_and_gzip(tmp_path: Path, shard: ShardRef) -> None:
    with h5py.File(tmp_path / SHARD_FOLDER / shard.name) as file:
        features = file["features"]
        assert (features.compression, features.compression_opts, features.fletcher32) == ("gzip", 1, True)
        assert features.chunks == (1, *SHAPE)
        np.testing.assert_array_equal(features[:], FEATURES)


def test_read_features_missing_shard_is_an_error(tmp_path: Path, shard: ShardRef) -> None:
    path = tmp_path / SHARD_FOLDER / shard.name
    path.unlink()
    with raises(ShardDamagedError, where=path):
        read_row(tmp_path, shard)


def test_read_features_truncated_shard_is_an_error(tmp_path: Path, shard: ShardRef) -> None:
    path = tmp_path / SHARD_FOLDER / shard.name
    path.write_bytes(path.read_bytes()[:-1])
    with raises(ShardDamagedError, where=path) as caught:
        read_row(tmp_path, shard)
    assert f"{shard.num_bytes:,}" in caught.value.expected
    assert f"{shard.num_bytes - 1:,}" in caught.value.got


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.999])
def test_read_features_flipped_byte_anywhere_is_an_error(tmp_path: Path, shard: ShardRef, share: float) -> None:
    path = tmp_path / SHARD_FOLDER / shard.name
    flip_byte(path, int(share * shard.num_bytes))
    with raises(ShardDamagedError, where=path) as caught:
        read_row(tmp_path, shard)
    assert shard.sha256[:12] in caught.value.expected


@pytest.mark.parametrize("compression", list(Compression))
def test_read_features_any_compression_returns_the_same_values(tmp_path: Path, compression: Compression) -> None:
    (tmp_path / SHARD_FOLDER).mkdir()
    data = encode_shard(HEADER, encode_rows(FEATURES, compression), compression)
    shard = write_shard(tmp_path, 1, data, 3)
    out = np.empty((3, *SHAPE), np.float16)
    read_features(tmp_path, shard, [0, 1, 2], out)
    np.testing.assert_array_equal(out, FEATURES)


def write_zstd_shard(folder: Path) -> ShardRef:
    """Write a shard as earlier versions did with `--compression zstd`."""
    data = io.BytesIO(encode_shard(HEADER, ROWS))
    with h5py.File(data, "r+") as file:
        del file["features"]
        zstd = hdf5plugin.Zstd(clevel=1)
        file.create_dataset("features", data=FEATURES, chunks=(1, *SHAPE), fletcher32=True, compression=zstd)
    (folder / SHARD_FOLDER).mkdir()
    return write_shard(folder, 1, data.getvalue(), 3)


def test_read_features_compressed_with_zstd_by_an_earlier_version(tmp_path: Path) -> None:
    shard, out = write_zstd_shard(tmp_path), np.empty((3, *SHAPE), np.float16)
    read_features(tmp_path, shard, [0, 1, 2], out)
    np.testing.assert_array_equal(out, FEATURES)


def test_read_zstd_without_hdf5plugin_is_an_error_that_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = write_zstd_shard(tmp_path)
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with raises(FeatureStoreError, where="zstd") as caught:
        read_row(tmp_path, shard)
    assert "hdf5plugin" in caught.value.expected
    assert "headstart[zstd]" in caught.value.advice
