"""Place a shard of one store in the folder of another: as a hard link, or as a copy on another file system."""

from __future__ import annotations

import shutil
from pathlib import Path

from base.errors import FeatureStoreError, ShardDamagedError
from base.files import atomic_file
from base.invocation import format_command
from base.regular import RegularFile
from base.system import link
from features.maintenance.recover import ForeignShardError, inspect_orphan
from features.schema import Fingerprint
from features.shards.shard import ShardHeader, ShardRef


def place_shard(source: Path, target: Path, fingerprint: Fingerprint) -> tuple[ShardRef, ShardHeader, bool]:
    """Link or copy a shard, and verify the digest and the fingerprint of the placed file.

    The caller must synchronise the folder, and adds the shard to the catalog. Until then the file is like that of an
    interrupted run, which the next writer verifies and adds.

    Args:
        source: file of the shard in the other store.
        target: free path in the store, a name of a shard with the same digest.
        fingerprint: fingerprint of the store.

    Returns:
        The entry of the catalog, the content of the shard, and whether it was linked.

    Raises:
        ShardDamagedError: the file is not the shard that its name promises; nothing remains at `target`.
        FeatureStoreError: the file cannot be read.
        OSError: the folder of `target` cannot be written.
    """
    is_linked = _link(source, target)
    if not is_linked:
        _copy(source, target)
    try:
        shard, header = inspect_orphan(target, fingerprint)
    except FeatureStoreError as error:
        target.unlink(missing_ok=True)
        if isinstance(error, ShardDamagedError | ForeignShardError):
            raise _build_damage_error(source, error.expected, error.got) from error
        raise FeatureStoreError(source, error.expected, error.got, error.advice) from error
    return shard, header, is_linked


def require_size(source: Path, shard: ShardRef) -> None:
    """Raise ShardDamagedError if the file of a shard is missing or does not have the size in its catalog."""
    expected = f"{shard.num_bytes:,} bytes"
    try:
        num_bytes = source.stat(follow_symlinks=False).st_size
    except OSError as error:
        raise _build_damage_error(source, expected, error.strerror or str(error)) from error
    if num_bytes != shard.num_bytes:
        raise _build_damage_error(source, expected, f"{num_bytes:,} bytes")


def _link(source: Path, target: Path) -> bool:
    """Create a hard link; return False if it is not possible, for example on another file system."""
    try:
        link(source, target)
    except FileExistsError:
        raise
    except OSError:
        return False
    return True


def _copy(source: Path, target: Path) -> None:
    try:
        opened = RegularFile(source)
    except OSError as error:
        got, advice = error.strerror or str(error), "Check its permissions and try again"
        raise FeatureStoreError(source, "a readable shard", got, advice) from error
    with opened, atomic_file(target) as file:
        shutil.copyfileobj(opened, file, 2**20)


def _build_damage_error(source: Path, expected: str, got: str) -> ShardDamagedError:
    command = format_command("features check", source.parents[1], "--read-data", "--quarantine")
    advice = f"Run `{command}`, extract this part again, then merge again"
    return ShardDamagedError(source, expected, got, advice)
