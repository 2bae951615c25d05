"""Shards: HDF5 files of up to 1,024 features, built in memory, written once, never changed."""

from __future__ import annotations

import errno
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from base.errors import FeatureStoreError, ShardDamagedError
from base.files import write_durably
from base.regular import FileIdentity, RegularFile, detects_writes
from features.schema import (
    FEATURE_DTYPE,
    MAX_BYTES_PER_SHARD,
    SCHEMA_VERSION,
    FeatureKey,
    Features,
    FeatureStatus,
    Fingerprint,
    Origin,
    encode_json,
)
from features.shards.compression import Compression, list_compression_options, load_filters
from features.shards.hdf5 import build_file, read_rows, read_texts
from features.shards.validate import validate_untrusted_hdf5

SHARD_FOLDER = "shards"
MAX_BYTES = 2 * MAX_BYTES_PER_SHARD
"""Limit for a shard's file: more is not read."""
_NAME = re.compile(r"([0-9]{6,18})-([0-9a-f]{64})\.h5\Z")
_VERIFIED: dict[FileIdentity, str] = {}
"""SHA-256 of the files that were hashed in this process."""
_LOST = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.EIO)
"""Errors of opening a file whose features are lost; of any other the file may be sound."""
_STATUS_CODES = {status: code for code, status in enumerate(FeatureStatus)}


@dataclass(frozen=True)
class ShardRef:
    """Committed shard, as listed in the catalog."""

    number: int
    sha256: str
    num_rows: int
    num_bytes: int

    @property
    def name(self) -> str:
        """Name of the file, which also holds the digest of its bytes."""
        return f"{self.number:06d}-{self.sha256}.h5"


class ShardHeader(NamedTuple):
    """Content of a shard, without its features."""

    fingerprint: Fingerprint
    origin: Origin
    keys: list[FeatureKey]
    statuses: list[FeatureStatus]


def encode_shard(header: ShardHeader, features: Features, compression: Compression = Compression.GZIP) -> bytes:
    """Encode rows as an HDF5 file, specified in docs/format.md; equal rows give equal bytes.

    Each row is one chunk, so that a single feature can be read without its neighbours.
    """
    hashes = np.frombuffer(b"".join(key.content_hash for key in header.keys), np.uint8).reshape(-1, 32)
    columns: dict[str, NDArray[Any]] = {
        "content_hashes": hashes,
        "views": np.array([key.view for key in header.keys], np.uint16),
        "statuses": np.array([_STATUS_CODES[status] for status in header.statuses], np.uint8),
    }

    def fill(file: h5py.File) -> None:
        file.attrs["headstart_schema_version"] = SCHEMA_VERSION
        file.attrs["fingerprint"] = header.fingerprint.encode()
        file.attrs["origin"] = encode_json(asdict(header.origin))
        options = list_compression_options(compression)
        file.create_dataset("features", data=features, chunks=(1, *features.shape[1:]), fletcher32=True, **options)
        for name, values in columns.items():
            file.create_dataset(name, data=values, fletcher32=True, chunks=values.shape)

    return build_file(fill)


def write_shard(store: Path, number: int, data: bytes, num_rows: int) -> ShardRef:
    """Write an encoded shard durably under its final name; it is committed by the catalog's transaction."""
    shard = ShardRef(number, hashlib.sha256(data).hexdigest(), num_rows, len(data))
    write_durably(store / SHARD_FOLDER / shard.name, data)
    return shard


def read_features(store: Path, shard: ShardRef, rows: Sequence[int], out: Features) -> None:
    """Read rows of a shard, ascending, into an array, after checking every byte of the file.

    Raises:
        ShardDamagedError: the file is missing, or not the one that was committed.
    """
    with open_shard(store, shard) as file:
        read_rows(file["features"], rows, out)


@contextmanager
def open_shard(store: Path, shard: ShardRef, *, rehash: bool = False) -> Iterator[h5py.File]:
    """Open a shard whose every byte was checked against its SHA-256.

    The file is opened once. The first time in a process HDF5 reads the very bytes that were hashed, from memory. Later
    it reads the file itself, as long as that is the one that was hashed: same inode, size and times. The digest costs
    a fortieth of what decompression does, but rows in a random order need every shard again and again.

    With `rehash` the bytes are hashed also where that was done before.

    Raises:
        ShardDamagedError: the file is missing, or not the one that was committed.
        FeatureStoreError: it cannot be opened now, for want of permission or file handles.
    """
    path = store / SHARD_FOLDER / shard.name
    try:
        opened = RegularFile(path)
    except OSError as error:
        got = error.strerror or str(error)
        if error.errno in _LOST:
            raise _damaged(path, shard, got) from error
        advice = "See who may read it, and run again"
        raise FeatureStoreError(path, "a shard that can be opened", got, advice) from error
    with opened:
        source, data = _verify(path, shard, opened, rehash=rehash)
        try:
            with h5py.File(source, "r") as file:
                if data is not None:
                    validate_untrusted_hdf5(file, data)
                    if file["features"].dtype != FEATURE_DTYPE:
                        raise ValueError(f"features of {file['features'].dtype}")
                load_filters(file["features"])
                if data is not None and detects_writes(opened.identity):
                    _VERIFIED[opened.identity] = shard.sha256
                yield file
        except (OSError, LookupError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            if opened.identify() != opened.identity:
                raise _damaged(path, shard, "a file that changed while it was read") from error
            # The bytes are those that were written: they are not Headstart's, or this HDF5 cannot read them.
            raise ShardDamagedError(
                path, "a shard that this HDF5 can read", str(error), "If it is from a sound store, update h5py"
            ) from error
        if opened.identify() != opened.identity:
            raise _damaged(path, shard, "a file that changed while it was read")


def _verify(
    path: Path, shard: ShardRef, opened: RegularFile, *, rehash: bool
) -> tuple[io.BytesIO | RegularFile, bytes | None]:
    """Return the source for HDF5, and the bytes where they were hashed just now."""
    num_bytes = opened.identity.num_bytes
    if num_bytes != shard.num_bytes or num_bytes > MAX_BYTES:
        raise _damaged(path, shard, f"{num_bytes:,} bytes")
    if not rehash and _VERIFIED.get(opened.identity) == shard.sha256:
        return opened, None
    try:
        data = opened.readall()
    except OSError as error:
        raise _damaged(path, shard, error.strerror or str(error)) from error
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        raise _damaged(path, shard, f"{num_bytes:,} bytes with another SHA-256")
    return io.BytesIO(data), data


def parse_name(name: str) -> tuple[int, str] | None:
    """Split a shard's file name into number and digest; return None for any other name."""
    match = _NAME.match(name)
    return (int(match[1]), match[2]) if match and match[1] == f"{int(match[1]):06d}" else None


def read_header(file: h5py.File) -> ShardHeader:
    """Read everything of a shard but its features."""
    header = ShardHeader(
        Fingerprint.from_json(*read_texts(file, "fingerprint")),
        Origin.from_json(*read_texts(file, "origin")),
        [
            FeatureKey(content_hash.tobytes(), int(view))
            for content_hash, view in zip(file["content_hashes"][:], file["views"][:], strict=True)
        ],
        [list(FeatureStatus)[code] for code in file["statuses"][:]],
    )
    if not len(header.keys) == len(header.statuses) == len(file["features"]):
        raise ValueError("columns of different lengths")
    return header


def _damaged(path: Path, shard: ShardRef, got: str) -> ShardDamagedError:
    advice = (
        "Run `python -m features check STORE --read-data --quarantine`, then `python -m extract` as before: "
        "only the features in it are computed again"
    )
    return ShardDamagedError(path, f"{shard.num_bytes:,} bytes with SHA-256 {shard.sha256[:12]}…", got, advice)
