"""The seal: SHA-256 of every file of a store that can change, there while no run is writing.

Source: the format of coreutils' `sha256sum`, so that `sha256sum -c SHA256SUMS` checks it too. Shards are not in
it: each has its own digest in its name.
"""

from __future__ import annotations

from pathlib import Path

from base.errors import FeatureStoreError
from base.files import hash_file, sync_folder, write_durably
from base.regular import RegularFile
from features.catalog.catalog import CATALOG_NAME
from features.packed.view import VIEW_NAME

SEAL_NAME = "SHA256SUMS"
SEALED_NAMES = (CATALOG_NAME, VIEW_NAME)
_MAX_SEAL_BYTES = 4096


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
    while (seal := _read_seal(store)) is not None:
        sealed, found = seal.splitlines(keepends=True), [line.encode() for line in _list_lines(store)]
        if sealed == found:
            return []
        # A run that began meanwhile has removed the seal; one that also ended has written another.
        if _read_seal(store) == seal:
            broken = [name for name, line in zip(SEALED_NAMES, found, strict=True) if line not in sealed]
            return broken or [SEAL_NAME]
    return []


def _read_seal(store: Path) -> bytes | None:
    try:
        with RegularFile(store / SEAL_NAME) as file:
            return file.read(_MAX_SEAL_BYTES)
    except FileNotFoundError:
        return None
    except OSError:
        # A link, or something else: not what was written.
        return b""


def _list_lines(store: Path) -> list[str]:
    lines = []
    for name in SEALED_NAMES:
        try:
            digest = hash_file(store / name)
        except FileNotFoundError:
            digest = "missing"
        except OSError as error:
            raise FeatureStoreError(
                store / name, "a file that can be read", error.strerror or str(error), "See what is there"
            ) from error
        lines.append(f"{digest}  {name}\n")
    return lines
