"""Command `features prune`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from base.errors import UsageError
from base.terminal import Console
from features.options import split_cuts


class StoreKind(StrEnum):
    """Kind of leftovers in a store."""

    FEATURES = "features"
    """Features of pictures that are gone."""
    DERIVED = "derived"
    """Data that can be computed again from the features."""
    QUARANTINE = "quarantine"
    """Damaged files."""
    PARTIAL = "partial"
    """Partial files of interrupted writes."""
    CUTS = "cuts"
    """Stores of the cut layers of `--drop-cut`."""


KINDS = ",".join(kind for kind in StoreKind if kind is not StoreKind.CUTS)
Confirm = Annotated[bool, Option("--confirm", help="Remove the listed files. Without it, they are only listed.")]


@dataclass(frozen=True)
class PruneConfig:
    """Options of `prune`."""

    store: Annotated[
        Path, Argument(help="Folder of the store, or of the stores of several cut layers.", metavar="STORE")
    ]
    only: Annotated[str, Option(help="Kinds of files to remove, comma-separated.", metavar="LIST")] = KINDS
    drop_cut: Annotated[
        str, Option(help="Cut layers, comma-separated, whose stores are removed as a whole.", metavar="LIST")
    ] = ""
    confirm: Confirm = False


def prune(config: PruneConfig, console: Console) -> Mapping[str, Any]:
    """List what a store no longer needs, such as features of pictures that are gone; --confirm removes it.

    Examples:
        headstart features prune work/store
        headstart features prune work/store --only features,derived --confirm
    """
    from base.errors import StoreMissingError
    from base.invocation import format_command
    from features.catalog.catalog import CATALOG_NAME
    from features.cuts import list_cuts
    from features.maintenance import prune as plan
    from features.maintenance.leftovers import free_leftovers, parse_kinds
    from features.maintenance.needed import find_needed, locate_runs

    kinds, cuts = parse_kinds(config.only, StoreKind), list_cuts(config.store)
    dropped = split_cuts(config.drop_cut) if config.drop_cut else []
    if unknown := [cut for cut in dropped if cut not in cuts]:
        expected = f"cut layers in {config.store}: {', '.join(cuts)}" if cuts else "a folder with a store of each layer"
        raise UsageError("--drop-cut", expected, unknown[0], "Give cut layers of this folder, or remove the store")
    stores = [config.store / cut for cut in cuts if cut not in dropped] if cuts else [config.store]
    if not cuts and not (config.store / CATALOG_NAME).is_file():
        got = "a file" if config.store.is_file() else "no store"
        raise StoreMissingError(config.store, "the folder of a feature store", got, "Check the path")

    find_again = partial(find_needed, locate_runs(config.store))
    find_once = cache(find_again)
    reason = "store of a cut layer; runs that were fitted on it cannot be exported"
    found = [plan.build_store_leftover(config.store / cut, StoreKind.CUTS, reason) for cut in dropped]
    for store in stores:
        found += plan.list_store_leftovers(store, kinds, find_once, find_again, console)
    words = [*(["--only", config.only] if config.only != KINDS else []), "--confirm"]
    words += ["--drop-cut", config.drop_cut] if dropped else []
    command = format_command("features prune", config.store, *words)
    return free_leftovers(config.store, found, console, confirm=config.confirm, command=command)
