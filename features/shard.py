"""A shard: one HDF5 file of up to 1,024 features, built in memory, written once, never changed."""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from features.compression import Compression, list_compression_options, load_filters
from features.durable import write_durably
from features.errors import ShardDamagedError
from features.foreign import check_file
from features.hdf5 import build_file, read_texts
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

SHARD_FOLDER = "shards"
_NAME = re.compile(r"(\d{6,})-([0-9a-f]{64})\.h5\Z")
_STATUS_CODES = {status: code for code, status in enumerate(FeatureStatus)}


@dataclass(frozen=True)
class ShardRef:
    """A committed shard as the catalog knows it."""

    number: int
    sha256: str
    num_rows: int
    num_bytes: int

    @property
    def name(self) -> str:
        """The file's name, which also holds the digest of its bytes."""
        return f"{self.number:06d}-{self.sha256}.h5"


class ShardHeader(NamedTuple):
    """What a shard says of itself."""

    fingerprint: Fingerprint
    origin: Origin
    keys: list[FeatureKey]
    statuses: list[FeatureStatus]


@dataclass(frozen=True)
class ShardRows:
    """The rows of one shard in their order: who they are, whether they may be used, and the features."""

    keys: list[FeatureKey]
    statuses: list[FeatureStatus]
    features: Features


def encode_shard(
    rows: ShardRows, fingerprint: Fingerprint, origin: Origin, compression: Compression = Compression.GZIP
) -> bytes:
    """Encodes rows as a self-describing HDF5 file; equal rows give equal bytes.

    Each row is one chunk, so that a single feature can be read without its neighbours, compressed and guarded
    by a Fletcher-32 checksum. docs/format.md is the specification.

    Raises:
        FeatureStoreError: zstd was asked for and hdf5plugin is not installed.
    """

    def fill(file: h5py.File) -> None:
        file.attrs["headstart_schema_version"] = SCHEMA_VERSION
        file.attrs["fingerprint"] = fingerprint.encode()
        file.attrs["origin"] = encode_json(asdict(origin))
        file.create_dataset(
            "features",
            data=rows.features,
            chunks=(1, *rows.features.shape[1:]),
            fletcher32=True,
            **list_compression_options(compression),
        )
        hashes = np.frombuffer(b"".join(key.content_hash for key in rows.keys), np.uint8).reshape(-1, 32)
        file.create_dataset("content_hashes", data=hashes, fletcher32=True, chunks=hashes.shape)
        views = np.array([key.view for key in rows.keys], np.uint16)
        file.create_dataset("views", data=views, fletcher32=True, chunks=views.shape)
        statuses = np.array([_STATUS_CODES[status] for status in rows.statuses], np.uint8)
        file.create_dataset("statuses", data=statuses, fletcher32=True, chunks=statuses.shape)

    return build_file(fill)


def write_shard(store: Path, number: int, data: bytes, num_rows: int) -> ShardRef:
    """Writes an encoded shard durably under its final name; it is not committed until the catalog says so."""
    shard = ShardRef(number, hashlib.sha256(data).hexdigest(), num_rows, len(data))
    write_durably(store / SHARD_FOLDER / shard.name, data)
    return shard


def read_features(store: Path, shard: ShardRef, rows: Sequence[int], out: Features) -> None:
    """Reads rows of a shard into `out`, after checking every byte of the file.

    Args:
        store: the store's folder.
        shard: which shard.
        rows: row numbers in it, ascending.
        out: (len(rows), ...) float16, filled in place.

    Raises:
        ShardDamagedError: the file is missing, or not the one that was committed.
    """
    with open_shard(store, shard) as file:
        features = file["features"]
        first, last = rows[0], rows[-1]
        if last - first + 1 == len(rows):
            features.read_direct(out, np.s_[first : last + 1])
        else:
            for position, row in enumerate(rows):
                features.read_direct(out, np.s_[row], np.s_[position])


@contextmanager
def open_shard(store: Path, shard: ShardRef) -> Iterator[h5py.File]:
    """Opens a shard whose every byte was checked against its SHA-256.

    HDF5 reads the very bytes that were checked, from memory: neither a damaged file nor one that changes
    meanwhile gets as far as HDF5. The digest costs a fortieth of what decompression does.

    Raises:
        ShardDamagedError: the file is missing, or not the one that was committed.
    """
    path = store / SHARD_FOLDER / shard.name
    try:
        status = path.stat()
        expected = stat.S_ISREG(status.st_mode) and status.st_size == shard.num_bytes
        # Neither an endless file nor a pipe is waited for.
        data = path.read_bytes() if expected else b""
    except OSError as error:
        raise _damaged(path, shard, error.strerror or str(error)) from error
    if not expected or hashlib.sha256(data).hexdigest() != shard.sha256:
        raise _damaged(path, shard, f"{status.st_size:,} bytes with another SHA-256")
    try:
        with h5py.File(h5py.h5f.open_file_image(data)) as file:
            check_file(file, data)
            if file["features"].dtype != FEATURE_DTYPE:
                raise ValueError(f"features of {file['features'].dtype}")
            load_filters(file["features"])
            yield file
    except (OSError, LookupError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        # The bytes are those that were written: they are not Headstart's, or what is missing is a way to read them.
        raise ShardDamagedError(
            path, "a shard that this HDF5 can read", str(error), "If it is from a sound store, update h5py"
        ) from error


def parse_name(name: str) -> tuple[int, str] | None:
    """Splits a shard's file name into number and digest, or returns None for any other name."""
    match = _NAME.match(name)
    return (int(match[1]), match[2]) if match else None


def read_header(file: h5py.File) -> ShardHeader:
    """Reads everything that a shard says of itself, without its features."""
    return ShardHeader(
        Fingerprint.from_json(*read_texts(file, "fingerprint")),
        Origin.from_json(*read_texts(file, "origin")),
        [
            FeatureKey(content_hash.tobytes(), int(view))
            for content_hash, view in zip(file["content_hashes"][:], file["views"][:], strict=True)
        ],
        [list(FeatureStatus)[code] for code in file["statuses"][:]],
    )


def _damaged(path: Path, shard: ShardRef, got: str) -> ShardDamagedError:
    return ShardDamagedError(
        path,
        f"{shard.num_bytes:,} bytes with SHA-256 {shard.sha256[:12]}…",
        got,
        "Run `python -m features check STORE --read-data --quarantine`, then `python -m extract` as before: "
        "only the features in it are computed again",
    )
