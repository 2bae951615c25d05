"""Commands `features push` and `features pull`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from base.terminal import Console, format_bytes, format_count
from base.urls import redact

if TYPE_CHECKING:
    from features.transfer.push import Transfer

Url = Annotated[
    str, Argument(help="URL of a folder, such as s3://bucket/store or gs://bucket/store, or a path.", metavar="URL")
]
Cut = Annotated[str, Option(help="Cut layers to copy, separated by commas, of a folder of stores. By default all.")]


@dataclass(frozen=True)
class PushConfig:
    """Options of `push`."""

    store: Annotated[Path, Argument(help="Folder of the store, or of stores of several cut layers.", metavar="STORE")]
    url: Url
    cut: Cut = ""


@dataclass(frozen=True)
class PullConfig:
    """Options of `pull`."""

    url: Url
    store: Annotated[Path, Argument(help="Folder of the store; created if needed.", metavar="STORE")]
    cut: Cut = ""


def push(config: PushConfig, console: Console) -> Mapping[str, Any]:
    """Copy a store to a URL; files that are there already are skipped, and nothing is removed.

    Examples:
        headstart features push work/store s3://bucket/store
    """
    from features.transfer.push import push_stores

    return _report(push_stores(config.store, config.url, config.cut, console), redact(config.url), console)


def pull(config: PullConfig, console: Console) -> Mapping[str, Any]:
    """Copy a store from a URL; every byte is verified, and files that the folder has already are skipped.

    Examples:
        headstart features pull s3://bucket/store work/store
    """
    from features.transfer.pull import pull_stores

    return _report(pull_stores(config.url, config.store, config.cut, console), str(config.store), console)


def _report(results: Mapping[str, Transfer], where: str, console: Console) -> Mapping[str, Any]:
    for cut, result in results.items():
        place = f"{where.rstrip('/')}/{cut}" if cut else where
        copied, size = format_count(result.copied, "shard"), format_bytes(result.num_bytes)
        console.info(f"{place}: copied {copied} ({size}), {result.present:,} already there")
    values = {cut: {"copied": r.copied, "present": r.present, "bytes": r.num_bytes} for cut, r in results.items()}
    return values.get("", {"cuts": values})
