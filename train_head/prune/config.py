"""Options of `prune`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from features.maintenance.command import Confirm, StoreKind


class FolderKind(StrEnum):
    """Kind of leftovers below a folder: those of stores, and those of training and export."""

    CHECKPOINTS = "checkpoints"
    """Checkpoints of interrupted trainings."""
    STAGING = "staging"
    """Incomplete results of interrupted commands."""
    RUNS = "runs"
    """Earlier runs and comparisons that were kept beside newer ones."""
    DERIVED = StoreKind.DERIVED.value
    QUARANTINE = StoreKind.QUARANTINE.value
    PARTIAL = StoreKind.PARTIAL.value
    FEATURES = StoreKind.FEATURES.value
    STORES = "stores"
    """Earlier stores that `--new-store` kept and that no run needs."""
    EXPORTS = "exports"
    """Exported models of runs that no longer exist."""


ASKED = (FolderKind.STORES, FolderKind.EXPORTS)
"""Kinds that are removed only if they are given, because their pictures or their run may be gone."""
KINDS = ",".join(kind for kind in FolderKind if kind not in ASKED)


@dataclass(frozen=True)
class PruneConfig:
    """Options of `prune`."""

    folder: Annotated[Path, Argument(help="Folder with stores, runs and exported models.", metavar="FOLDER")] = Path(
        "work"
    )
    only: Annotated[
        str,
        Option(
            help=f"Kinds of files to remove, comma-separated. {' and '.join(ASKED)} are kept unless they are given.",
            metavar="LIST",
        ),
    ] = KINDS
    confirm: Confirm = False
