"""Command `features merge`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from base.errors import StoreMissingError, UsageError
from base.terminal import Console, format_list

if TYPE_CHECKING:
    from features.merging.merge import MergeResult


@dataclass(frozen=True)
class MergeConfig:
    """Options of `merge`."""

    parts: Annotated[
        list[Path],
        Argument(help="Stores of parts, made with `headstart extract --part`, or other stores.", metavar="PART"),
    ]
    into: Annotated[Path, Option(help="Folder of the store. It is created or updated.")]
    incomplete: Annotated[
        bool,
        Option(
            "--incomplete",
            help="Merge even if parts are missing or unfinished. The store records the parts that it has complete; a "
            "later merge adds the others.",
        ),
    ] = False


def merge(config: MergeConfig, console: Console) -> Mapping[str, Any]:
    """Merge stores, such as those of the parts of a folder, by hard links or copies of their shards.

    Examples:
        headstart features merge work/part-1 work/part-2 --into work/store
    """
    paths = list({path.resolve(): path for path in config.parts}.values())
    from features.merging.merge import merge_parts, plan_merge

    pairs = _pair_stores(paths, config.into)
    for target, stores in pairs.values():
        if target.resolve() in [store.resolve() for store in stores]:
            raise UsageError("--into", "another folder than the parts", str(target), "Give a new folder")
    # All checks come before the first change.
    plans = {
        cut: plan_merge(stores, target, console, allow_incomplete=config.incomplete)
        for cut, (target, stores) in pairs.items()
    }
    results = {cut: merge_parts(plan, console) for cut, plan in plans.items()}
    for result in results.values():
        console.show_table(f"{result.store}", _describe(result))
    found = {cut: asdict(result) | {"store": str(result.store)} for cut, result in results.items()}
    return {"cuts": found} if len(found) > 1 else next(iter(found.values()))


def _pair_stores(paths: Sequence[Path], into: Path) -> dict[str, tuple[Path, list[Path]]]:
    """Return the store to write and the stores to merge for each cut layer.

    Raises:
        StoreMissingError: a path has no store, or not the same cut layers as the others.
    """
    from features.catalog.catalog import CATALOG_NAME, Catalog, load_fingerprint
    from features.cuts import choose_cut_folders, list_cuts

    cuts = list_cuts(paths[0])
    for path in paths:
        if (found := list_cuts(path)) != cuts:
            expected, got = (
                "stores of the cut layers " + ", ".join(names) if names else "one store" for names in (cuts, found)
            )
            raise StoreMissingError(path, f"{expected}, as in {paths[0]}", got, "Extract all parts with the same --cut")
    if not cuts:
        with closing(Catalog(paths[0] / CATALOG_NAME, writable=False)) as catalog:
            cut = load_fingerprint(catalog).cut
    places = choose_cut_folders(into, cuts or [cut])
    return {cut: (place, [path / cut if cuts else path for path in paths]) for cut, place in places.items()}


def _describe(result: MergeResult) -> list[tuple[str, str]]:
    is_new = result.linked or result.copied or result.pictures
    missing = [f"{number}/{result.parts}" for number in result.missing]
    return [
        *([("parts", f"{result.parts - len(missing):,} of {result.parts:,}")] if result.parts else []),
        *([("missing or unfinished", format_list(missing))] if missing else []),
        (
            "shards",
            f"{result.linked:,} linked, {result.copied:,} copied" if is_new else "nothing to do: the store has all",
        ),
        *([("pictures added or changed", f"{result.pictures:,}")] if result.pictures else []),
    ]
