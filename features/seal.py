"""The seal: SHA-256 of every file of a store that can change, there while no run is writing.

Source: the format of coreutils' `sha256sum`, so that `sha256sum -c SHA256SUMS` checks it too. Shards are not in
it: each has its own digest in its name.
"""

from __future__ import annotations

from pathlib import Path

from features.catalog import CATALOG_NAME
from features.durable import hash_file, sync_folder, write_durably
from features.view import VIEW_NAME

SEAL_NAME = "SHA256SUMS"
SEALED_NAMES = (CATALOG_NAME, VIEW_NAME)


def break_seal(store: Path) -> None:
    """Removes the seal before the catalog is written to."""
    (store / SEAL_NAME).unlink(missing_ok=True)
    sync_folder(store)


def write_seal(store: Path) -> None:
    """Seals a catalog that is closed and its view, at the end of a run."""
    write_durably(store / SEAL_NAME, "".join(_list_lines(store)).encode())


def find_broken_seals(store: Path) -> list[str]:
    """Compares the catalog and the view with the seal.

    Returns:
        The names of files that are not what was sealed; none where a run that did not end left no seal.
    """
    path = store / SEAL_NAME
    if not path.exists():
        return []
    sealed = path.read_bytes().splitlines(keepends=True)
    found = [line.encode() for line in _list_lines(store)]
    if sealed == found:
        return []
    broken = [name for name, line in zip(SEALED_NAMES, found, strict=True) if line not in sealed]
    return broken or [SEAL_NAME]


def _list_lines(store: Path) -> list[str]:
    lines = []
    for name in SEALED_NAMES:
        digest = hash_file(store / name) if (store / name).exists() else "missing"
        lines.append(f"{digest}  {name}\n")
    return lines
