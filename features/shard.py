"""A shard: one HDF5 file of up to 1,024 features, built in memory, written once, never changed."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np

from features.durable import write_durably
from features.errors import ShardDamagedError
from features.schema import (
    SCHEMA_VERSION,
    FeatureKey,
    Features,
    FeatureStatus,
    Fingerprint,
    Origin,
    encode_json,
)

SHARD_FOLDER = "shards"
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


@dataclass(frozen=True)
class ShardRows:
    """The rows of one shard in their order: who they are, whether they may be used, and the features."""

    keys: list[FeatureKey]
    statuses: list[FeatureStatus]
    features: Features


def encode_shard(rows: ShardRows, fingerprint: Fingerprint, origin: Origin) -> bytes:
    """Encodes rows as a self-describing HDF5 file; equal rows give equal bytes.

    Each row is one chunk, so that a single feature can be read without its neighbours, compressed with
    gzip level 1 and guarded by a Fletcher-32 checksum. docs/format.md is the specification.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=("earliest", "v110"), track_order=False) as file:
        file.attrs["headstart_schema_version"] = SCHEMA_VERSION
        file.attrs["fingerprint"] = encode_json(asdict(fingerprint))
        file.attrs["origin"] = encode_json(asdict(origin))
        file.create_dataset(
            "features",
            data=rows.features,
            chunks=(1, *rows.features.shape[1:]),
            compression="gzip",
            compression_opts=1,
            fletcher32=True,
        )
        hashes = np.frombuffer(b"".join(key.content_hash for key in rows.keys), np.uint8).reshape(-1, 32)
        file.create_dataset("content_hashes", data=hashes, fletcher32=True, chunks=hashes.shape)
        views = np.array([key.view for key in rows.keys], np.uint16)
        file.create_dataset("views", data=views, fletcher32=True, chunks=views.shape)
        statuses = np.array([_STATUS_CODES[status] for status in rows.statuses], np.uint8)
        file.create_dataset("statuses", data=statuses, fletcher32=True, chunks=statuses.shape)
    return buffer.getvalue()


def write_shard(store: Path, number: int, data: bytes, num_rows: int) -> ShardRef:
    """Writes an encoded shard durably under its final name; it is not committed until the catalog says so."""
    shard = ShardRef(number, hashlib.sha256(data).hexdigest(), num_rows, len(data))
    write_durably(store / SHARD_FOLDER / shard.name, data)
    return shard


def read_features(store: Path, shard: ShardRef, rows: list[int], out: Features) -> None:
    """Reads rows of a shard into `out`.

    Args:
        store: the store's folder.
        shard: which shard.
        rows: row numbers in it, ascending.
        out: (len(rows), ...) float16, filled in place.

    Raises:
        ShardDamagedError: the file is missing, is no HDF5 file, or fails a checksum.
    """
    path = store / SHARD_FOLDER / shard.name
    try:
        if path.stat().st_size != shard.num_bytes:
            raise OSError(f"{path.stat().st_size:,} bytes")
        with h5py.File(path, "r") as file:
            features = file["features"]
            first, last = rows[0], rows[-1]
            if last - first + 1 == len(rows):
                features.read_direct(out, np.s_[first : last + 1])
            else:
                for position, row in enumerate(rows):
                    features.read_direct(out, np.s_[row], np.s_[position])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ShardDamagedError(
            path,
            f"a shard of {shard.num_rows} features in {shard.num_bytes:,} bytes",
            str(error) or type(error).__name__,
            "Run `python -m extract` with the same --images and --store again: it extracts what is missing",
        ) from error


def read_header(path: Path) -> tuple[Fingerprint, Origin, list[FeatureKey], list[FeatureStatus]]:
    """Reads everything that a shard says of itself, without its features."""
    with h5py.File(path, "r") as file:
        fingerprint = Fingerprint(**json.loads(file.attrs["fingerprint"]))
        origin = Origin.from_json(file.attrs["origin"])
        keys = [
            FeatureKey(content_hash.tobytes(), int(view))
            for content_hash, view in zip(file["content_hashes"][:], file["views"][:], strict=True)
        ]
        statuses = [list(FeatureStatus)[code] for code in file["statuses"][:]]
    return fingerprint, origin, keys, statuses
