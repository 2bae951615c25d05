"""Command line of the store: `python -m features info|check|pack`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from base.command_line import CommandFailed, run_commands
from base.terminal import Console, format_bytes
from features.shards.compression import Compression

Store = Annotated[Path, Argument(help="The store's folder (info, pack: or a packed store).", metavar="STORE")]


Cut = Annotated[str, Option(help="Whose store, where the folder holds several cut layers.")]


@dataclass(frozen=True)
class InfoConfig:
    """Which store to describe."""

    store: Store
    cut: Cut = ""


@dataclass(frozen=True)
class CheckConfig:
    """Which store to check, and how far."""

    store: Store
    read_data: Annotated[bool, Option("--read-data", help="Read every byte and compare digests.")] = False
    images: Annotated[Path | None, Option(help="Hash the pictures in this folder again, too.")] = None
    quarantine: Annotated[
        bool, Option("--quarantine", help="Move bad shards away; `python -m extract` computes them again.")
    ] = False
    rebuild_catalog: Annotated[bool, Option("--rebuild-catalog", help="Make the catalog anew from the shards.")] = False
    cut: Cut = ""


@dataclass(frozen=True)
class PackConfig:
    """Which store to pack, and where to."""

    store: Store
    out: Annotated[Path, Argument(help="The HDF5 file to write.", metavar="OUT.h5")]
    compression: Annotated[Compression, Option(help="Of the features.")] = Compression.GZIP
    cut: Cut = ""


def info(config: InfoConfig, console: Console) -> Mapping[str, Any]:
    """Show what a store holds."""
    from features.cuts import open_store

    store = open_store(config.store, config.cut)
    counts = sorted(Counter((image.split, image.label, image.status.value) for image in store.images).items())
    num_bytes = sum(shard.num_bytes for shard in store.shards) or store.path.stat().st_size
    share = num_bytes / max(2 * store.num_features * prod(store.feature_shape), 1)
    fingerprint = {**asdict(store.fingerprint), "digest": store.fingerprint.digest}
    console.show_table(
        f"{store.path}",
        [
            *(("/".join(filter(None, key[:2])), f"{count:,} {key[2]}") for key, count in counts),
            ("features", f"{store.num_features:,}, each {' x '.join(map(str, store.feature_shape))}"),
            ("numbers", store.fingerprint.numbers),
            *([("views", f"{store.num_views} of each training picture")] if store.num_views > 1 else []),
            ("usable", f"{len(store):,} images"),
            ("shards", f"{len(store.shards):,}"),
            ("on disk", f"{format_bytes(num_bytes)}, {share:.2f} of the plain size"),
            ("pictures from", store.images_folder or "unknown"),
            ("weights", f"{store.origin.weights_name} {store.origin.weights_file}"),
            *((f"fingerprint: {name}", value) for name, value in fingerprint.items()),
            *((f"made with {name}", value) for name, value in store.origin.versions.items()),
        ],
    )
    return {
        "images": [
            {"split": split, "label": label, "status": status, "count": count}
            for (split, label, status), count in counts
        ],
        "features": store.num_features,
        "examples": len(store),
        "views": store.num_views,
        "feature_shape": list(store.feature_shape),
        "shards": len(store.shards),
        "bytes": num_bytes,
        "compression": share,
        "images_folder": store.images_folder,
        "fingerprint": fingerprint,
        "origin": asdict(store.origin),
    }


def check(config: CheckConfig, console: Console) -> Mapping[str, Any]:
    """Check a store for damage. Nothing is repaired unless asked for."""
    from base.errors import StoreMissingError
    from features.catalog.catalog import CATALOG_NAME
    from features.cuts import resolve_cut
    from features.maintenance import check as checks
    from features.shards.shard import SHARD_FOLDER

    store = resolve_cut(config.store, config.cut)
    if not store.is_dir() or not any((store / name).exists() for name in (SHARD_FOLDER, CATALOG_NAME)):
        got = "a packed store or another file" if store.is_file() else "none there"
        raise StoreMissingError(store, "a store's folder", got, "Check the path")
    if config.rebuild_catalog:
        num_features, lost = checks.rebuild_catalog(store)
        console.info(
            f"{store}: a new catalog of {num_features:,} features; run `python -m extract` as before to "
            "enter the pictures (it computes only what is missing)"
        )
        for line in lost:
            console.warning(line)
    elif not (store / CATALOG_NAME).is_file():
        raise StoreMissingError(store, "a catalog", "none", "Run it with --rebuild-catalog")
    with console.progress("check", len(list((store / SHARD_FOLDER).glob("*.h5"))), "shards") as progress:
        problems = checks.find_problems(
            store, read_data=config.read_data, images=config.images, advance=progress.advance
        )
    for problem in problems:
        console.warning(f"{problem.where}: {problem.what}")
    result: dict[str, Any] = {"ok": not problems, "problems": [asdict(problem) for problem in problems]}
    if config.quarantine:
        result["forgotten"] = checks.quarantine_shards(store, problems)
        console.info(f"{result['forgotten']:,} features are to be computed again: run `python -m extract` as before")
    if problems:
        raise CommandFailed(result)
    notes = checks.list_notes(store)
    how = "every byte was read" if config.read_data else "sizes only; --read-data reads every byte"
    for line in (*notes, f"{store}: no problem found ({how})"):
        console.info(line)
    return {**result, "notes": notes}


def pack(config: PackConfig, console: Console) -> Mapping[str, Any]:
    """Write a store as one plain HDF5 file, for h5py, h5web and HDFView; every command takes it as --store."""
    from features.cuts import open_store
    from features.packed.write import is_packed, list_rows, pack_store

    store = open_store(config.store, config.cut)
    num_rows = len(list_rows(store))
    if is_packed(store, config.out):
        console.info(f"{config.out}: holds this store's features already; nothing to do")
    else:
        with console.progress("pack", num_rows, "features") as progress:
            pack_store(store, config.out, config.compression, progress.advance)
    size = config.out.stat().st_size
    console.show_table(f"{config.out}", [("features", f"{num_rows:,}"), ("size", format_bytes(size))])
    return {"features": num_rows, "bytes": size, "file": str(config.out)}


def main(name: str) -> None:
    """Run the command under a name, and end the process."""
    run_commands({"info": (info, InfoConfig), "check": (check, CheckConfig), "pack": (pack, PackConfig)}, name)


if __name__ == "__main__":
    main("python -m features")
