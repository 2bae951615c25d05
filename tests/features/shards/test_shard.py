"""One shard: what is written is what is read."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from base.errors import ShardDamagedError
from features.schema import FeatureKey, FeatureStatus
from features.shards.compression import Compression
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
from tests.features.stores import SHAPE, make_features, make_fingerprint, make_key, make_origin

HEADER = ShardHeader(
    make_fingerprint(),
    make_origin(),
    [make_key(0), make_key(1), FeatureKey(make_key(1).content_hash, 3)],
    [FeatureStatus.OK, FeatureStatus.OVERFLOW, FeatureStatus.NONFINITE],
)
FEATURES = make_features(range(3))


@pytest.fixture
def shard(tmp_path: Path) -> ShardRef:
    (tmp_path / SHARD_FOLDER).mkdir()
    return write_shard(tmp_path, 17, encode_shard(HEADER, FEATURES), 3)


def test_encode_shard_equal_rows_give_equal_bytes() -> None:
    one = encode_shard(HEADER, FEATURES)
    assert one == encode_shard(HEADER, FEATURES)


def test_write_shard_name_holds_number_and_digest_of_the_bytes(tmp_path: Path, shard: ShardRef) -> None:
    (path,) = (tmp_path / SHARD_FOLDER).iterdir()
    data = path.read_bytes()
    assert path.name == f"000017-{hashlib.sha256(data).hexdigest()}.h5"
    assert (shard.number, shard.num_rows, shard.num_bytes) == (17, 3, len(data))


def test_read_header_returns_all_that_was_said_of_the_rows(tmp_path: Path, shard: ShardRef) -> None:
    with open_shard(tmp_path, shard) as file:
        header = read_header(file)
    assert header == HEADER


@pytest.mark.parametrize("rows", [[0, 1, 2], [0, 2], [1]])
def test_read_features_chosen_rows_come_in_order(tmp_path: Path, shard: ShardRef, rows: list[int]) -> None:
    out = np.empty((len(rows), *SHAPE), np.float16)
    read_features(tmp_path, shard, rows, out)
    np.testing.assert_array_equal(out, FEATURES[rows])


def test_shard_is_plain_hdf5_with_checksums_and_gzip(tmp_path: Path, shard: ShardRef) -> None:
    with h5py.File(tmp_path / SHARD_FOLDER / shard.name) as file:
        features = file["features"]
        assert (features.compression, features.compression_opts, features.fletcher32) == ("gzip", 1, True)
        assert features.chunks == (1, *SHAPE)
        np.testing.assert_array_equal(features[:], FEATURES)


def test_read_features_missing_shard_is_named(tmp_path: Path, shard: ShardRef) -> None:
    path = tmp_path / SHARD_FOLDER / shard.name
    path.unlink()
    with pytest.raises(ShardDamagedError, match=path.name):
        read_features(tmp_path, shard, [0], np.empty((1, *SHAPE), np.float16))


def test_read_features_truncated_shard_is_refused(tmp_path: Path, shard: ShardRef) -> None:
    path = tmp_path / SHARD_FOLDER / shard.name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ShardDamagedError, match=f"{shard.num_bytes:,} bytes"):
        read_features(tmp_path, shard, [0], np.empty((1, *SHAPE), np.float16))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.999])
def test_read_features_flipped_byte_anywhere_is_refused(tmp_path: Path, shard: ShardRef, share: float) -> None:
    path = tmp_path / SHARD_FOLDER / shard.name
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardDamagedError, match="another SHA-256"):
        read_features(tmp_path, shard, [0], np.empty((1, *SHAPE), np.float16))


@pytest.mark.parametrize("compression", list(Compression))
def test_read_features_gives_the_same_values_for_every_compression(tmp_path: Path, compression: Compression) -> None:
    (tmp_path / SHARD_FOLDER).mkdir()
    data = encode_shard(HEADER, FEATURES, compression)
    shard = write_shard(tmp_path, 1, data, 3)
    out = np.empty((3, *SHAPE), np.float16)
    read_features(tmp_path, shard, [0, 1, 2], out)
    np.testing.assert_array_equal(out, FEATURES)


def test_zstd_shard_without_hdf5plugin_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / SHARD_FOLDER).mkdir()
    shard = write_shard(tmp_path, 1, encode_shard(HEADER, FEATURES, Compression.ZSTD), 3)
    program = (
        "import sys, pathlib, numpy as np\n"
        "sys.modules['hdf5plugin'] = None\n"
        "from features.shards.shard import *\n"
        "from features.shards.compression import Compression, list_compression_options\n"
        f"shard = ShardRef(1, {shard.sha256!r}, 3, {shard.num_bytes})\n"
        "for act in (lambda: read_features(pathlib.Path(sys.argv[1]), shard, [0], np.empty((1, 2, 2, 3), 'f2')),\n"
        "            lambda: list_compression_options(Compression.ZSTD)):\n"
        "    try:\n        act()\n    except Exception as error:\n        print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    reading, writing = done.stdout.splitlines()
    message = "FeatureStoreError zstd: expected the package hdf5plugin, got none. Run `pip install 'headstart[zstd]'`."
    assert (reading, writing) == (message, message)
