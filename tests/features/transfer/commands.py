"""Push and pull stores in the process of the test, and look at their files."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from base.terminal import Console, ConsoleOptions
from features.store import FeatureStore
from features.transfer.pull import pull_stores
from features.transfer.push import Transfer, push_stores

QUIET = Console(ConsoleOptions(quiet=True))


def push(store: Path, url: str | Path, cut: str = "") -> Transfer:
    """Push a store; return the result of the first cut layer."""
    return next(iter(push_stores(store, str(url), cut, QUIET).values()))


def pull(url: str | Path, store: Path, cut: str = "") -> Transfer:
    """Pull a store; return the result of the first cut layer."""
    return next(iter(pull_stores(str(url), store, cut, QUIET).values()))


def list_shards(store: Path) -> list[str]:
    """List the names of the files in the shards folder."""
    return sorted(path.name for path in (store / "shards").iterdir())


def read_shards(store: Path) -> dict[str, bytes]:
    """Read the files of the shards; the keys are their names."""
    return {name: (store / "shards" / name).read_bytes() for name in list_shards(store)}


def find_shard(store: Path, number: int) -> Path:
    """Return the path of a shard."""
    shard = next(shard for shard in FeatureStore(store).shards if shard.number == number)
    return store / "shards" / shard.name


def key_of(url: str, name: str) -> str:
    """Return the key in its bucket of a file of the store at a URL."""
    return f"{urlsplit(url).path.lstrip('/')}/{name}"
