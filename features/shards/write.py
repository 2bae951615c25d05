"""Encode and write the shards of a store, in the process that commits them or in another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from features.options import Compression
from features.schema import FeatureKey, Features, FeatureStatus, Fingerprint, Origin
from features.shards.chunks import encode_rows
from features.shards.shard import ShardHeader, encode_shard


@dataclass(frozen=True)
class ShardEncoder:
    """Encoder of the shards of a store. It can be sent to other processes, and used in any thread."""

    store: Path
    """Folder of the store."""
    fingerprint: Fingerprint
    origin: Origin
    compression: Compression
    rows_per_shard: int
    """Largest number of features in a shard."""

    def encode_rows(self, features: Features) -> list[bytes]:
        """Compress features; the interpreter's lock is released.

        Args:
            features: (n, *feature_shape) float16.

        Returns:
            The stored bytes of each feature.
        """
        if features.shape[1:] != self.origin.feature_shape:
            raise ValueError(f"features of shape {features.shape[1:]} instead of {self.origin.feature_shape}")
        return encode_rows(features, self.compression)

    def encode_shard(
        self, keys: Sequence[FeatureKey], rows: Sequence[bytes], statuses: Sequence[FeatureStatus]
    ) -> bytes:
        """Encode rows, as compressed by `encode_rows`, as the file of a shard; equal rows give equal bytes."""
        # Shards may be shared, so they must not contain a path of this machine.
        origin = replace(self.origin, weights_file=Path(self.origin.weights_file).name)
        header = ShardHeader(self.fingerprint, origin, list(keys), list(statuses))
        return encode_shard(header, rows, self.compression)
