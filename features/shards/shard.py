"""Shards: HDF5 files of up to 1,024 features, built in memory, written once and never modified."""

from __future__ import annotations

import errno
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from base.errors import FeatureStoreError, ShardDamagedError
from base.files import write_durably
from base.invocation import format_command
from base.regular import FileIdentity, RegularFile, detects_writes
from features.options import Compression
from features.schema import (
    FEATURE_DTYPE,
    SCHEMA_VERSION,
    FeatureKey,
    Features,
    FeatureStatus,
    Fingerprint,
    Origin,
    encode_json,
)
from features.shards.chunks import create_features, read_rows, write_rows
from features.shards.compression import load_filters
from features.shards.hdf5 import build_file, read_texts
from features.shards.size import MAX_BYTES_PER_SHARD
from features.shards.validate import validate_untrusted_hdf5

SHARD_FOLDER = "shards"
MAX_BYTES = 2 * MAX_BYTES_PER_SHARD
"""Maximum size of the file of a shard; larger files are rejected."""
_NAME = re.compile(r"([0-9]{6,18})-([0-9a-f]{64})\.h5\Z")
_VERIFIED: dict[FileIdentity, str] = {}
"""SHA-256 of the files that this process has verified."""
_LOST = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.EIO)
"""Errors, when a file is opened, that mean that it is lost. After other errors it may be intact."""
_STATUS_CODES = {status: code for code, status in enumerate(FeatureStatus)}


@dataclass(frozen=True)
class ShardRef:
    """Entry of the catalog for a committed shard."""

    number: int
    sha256: str
    num_rows: int
    num_bytes: int

    @property
    def name(self) -> str:
        """File name, which contains the digest of the bytes."""
        return f"{self.number:06d}-{self.sha256}.h5"


class ShardHeader(NamedTuple):
    """Content of a shard except the feature values."""

    fingerprint: Fingerprint
    origin: Origin
    keys: list[FeatureKey]
    statuses: list[FeatureStatus]


def encode_shard(header: ShardHeader, rows: Sequence[bytes], compression: Compression = Compression.GZIP) -> bytes:
    """Encode rows as an HDF5 file, as specified in docs/reference/format.md; equal rows give equal bytes.

    Args:
        header: everything except the feature values.
        rows: rows that `encode_rows` has compressed; each is one chunk, so that features can be read one by one.
        compression: compression of the rows.
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
        write_rows(create_features(file, len(rows), header.origin.feature_shape, compression), 0, rows)
        for name, values in columns.items():
            file.create_dataset(name, data=values, fletcher32=True, chunks=values.shape)

    return build_file(fill)


def write_shard(store: Path, number: int, data: bytes, num_rows: int) -> ShardRef:
    """Write an encoded shard durably under its final name; the transaction of the catalog commits it later."""
    shard = ShardRef(number, hashlib.sha256(data).hexdigest(), num_rows, len(data))
    write_durably(store / SHARD_FOLDER / shard.name, data)
    return shard


def read_features(store: Path, shard: ShardRef, rows: Sequence[int], out: Features) -> None:
    """Verify a shard, and read rows, in ascending order, into an array.

    Raises:
        ShardDamagedError: the file is missing or damaged.
    """
    with open_shard(store, shard) as file:
        read_rows(file["features"], rows, out)


def open_shard(store: Path, shard: ShardRef, *, rehash: bool = False) -> AbstractContextManager[h5py.File]:
    """Open a shard of a store with `open_shard_file`."""
    return open_shard_file(store / SHARD_FOLDER / shard.name, shard, rehash=rehash)


@contextmanager
def open_shard_file(path: Path, shard: ShardRef, *, rehash: bool = False) -> Iterator[h5py.File]:
    """Open the file of a shard, and verify its bytes against the SHA-256 in the catalog.

    The file is opened once. The first time in a process, HDF5 reads the verified bytes from memory. Later it reads the
    file, which is not hashed again while its inode, size and times are unchanged: random access opens every shard many
    times.

    Args:
        path: the file.
        shard: the shard.
        rehash: whether to hash the file again even if it was verified before.

    Raises:
        ShardDamagedError: the file is missing or damaged.
        FeatureStoreError: the file cannot be opened now, for example without permission.
    """
    with _open_file(path, shard) as opened:
        source, data = _verify(path, shard, opened, rehash=rehash)
        try:
            with h5py.File(source, "r") as file:
                if data is not None:
                    validate_untrusted_hdf5(file, data)
                    if file["features"].dtype != FEATURE_DTYPE:
                        raise ValueError(f"features of dtype {file['features'].dtype}")
                load_filters(file["features"])
                if data is not None and detects_writes(opened.identity):
                    _VERIFIED[opened.identity] = shard.sha256
                yield file
        except (OSError, LookupError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            if opened.identify() != opened.identity:
                raise _build_damage_error(path, shard, "a file that changed during reading") from error
            # The digest matches, so either Headstart did not write the file, or this version of HDF5 cannot read it.
            expected, advice = "a valid shard", "Update h5py if the store comes from a newer version"
            raise ShardDamagedError(path, expected, str(error), advice) from error
        if opened.identify() != opened.identity:
            raise _build_damage_error(path, shard, "a file that changed during reading")


def read_bytes(store: Path, shard: ShardRef) -> bytes:
    """Read the file of a shard, and verify it as `open_shard` does, but without HDF5."""
    path = store / SHARD_FOLDER / shard.name
    with _open_file(path, shard) as opened:
        _check_size(path, shard, opened)
        return _read_verified(path, shard, opened)


def _open_file(path: Path, shard: ShardRef) -> RegularFile:
    try:
        return RegularFile(path)
    except OSError as error:
        got = error.strerror or str(error)
        if error.errno in _LOST:
            raise _build_damage_error(path, shard, got) from error
        raise FeatureStoreError(path, "a readable shard", got, "Check its permissions and try again") from error


def _verify(
    path: Path, shard: ShardRef, opened: RegularFile, *, rehash: bool
) -> tuple[io.BytesIO | RegularFile, bytes | None]:
    """Return the source for HDF5, and the bytes if they were hashed by this call."""
    _check_size(path, shard, opened)
    if not rehash and _VERIFIED.get(opened.identity) == shard.sha256:
        return opened, None
    data = _read_verified(path, shard, opened)
    return io.BytesIO(data), data


def _check_size(path: Path, shard: ShardRef, opened: RegularFile) -> None:
    num_bytes = opened.identity.num_bytes
    if num_bytes != shard.num_bytes or num_bytes > MAX_BYTES:
        raise _build_damage_error(path, shard, f"{num_bytes:,} bytes")


def _read_verified(path: Path, shard: ShardRef, opened: RegularFile) -> bytes:
    try:
        data = opened.readall()
    except OSError as error:
        raise _build_damage_error(path, shard, error.strerror or str(error)) from error
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        raise _build_damage_error(path, shard, f"{len(data):,} bytes with another SHA-256")
    return data


def parse_name(name: str) -> tuple[int, str] | None:
    """Split the file name of a shard into number and digest; return None for other names."""
    match = _NAME.match(name)
    return (int(match[1]), match[2]) if match and match[1] == f"{int(match[1]):06d}" else None


def read_header(file: h5py.File) -> ShardHeader:
    """Read the content of a shard except the feature values."""
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


def _build_damage_error(path: Path, shard: ShardRef, got: str) -> ShardDamagedError:
    command = format_command("features check", path.parents[1], "--read-data", "--quarantine")
    advice = (
        f"Run `{command}`, then `{format_command('extract')}` again with the same options (only the features of this "
        "shard are computed again)"
    )
    return ShardDamagedError(path, f"{shard.num_bytes:,} bytes with SHA-256 {shard.sha256[:12]}…", got, advice)
