"""Command line of the feature store: `python -m features info|check|pack|prune|merge|push|pull`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from base.command_line import CommandFailed, CommandFunction, run_commands
from base.errors import UsageError
from base.invocation import format_command
from base.terminal import Console, format_bytes, format_count
from base.urls import Location
from features.maintenance.command import PruneConfig, prune
from features.merging.command import MergeConfig, merge
from features.options import Compression, split_cuts
from features.transfer.commands import PullConfig, PushConfig, pull, push

Store = Annotated[
    Path, Argument(help="Folder of the store; info and pack also accept a packed store.", metavar="STORE")
]
NUM_COUNTS_SHOWN = 60
"""Largest number of counts in the table of `info`, one for each split, class and status."""
Cut = Annotated[
    str,
    Option(
        help="Cut layer; required if the folder has stores of several cut layers. info and check accept several, "
        "separated by commas."
    ),
]


@dataclass(frozen=True)
class InfoConfig:
    """Options of `info`."""

    store: Store
    cut: Cut = ""


@dataclass(frozen=True)
class CheckConfig:
    """Options of `check`."""

    store: Store
    read_data: Annotated[bool, Option("--read-data", help="Read every byte and compare the digests.")] = False
    images: Annotated[
        Location | None, Option(help="Folder of pictures to hash and compare with the store.", metavar="DIR|URL")
    ] = None
    quarantine: Annotated[
        bool,
        Option(
            "--quarantine", help="Move damaged shards to quarantine; `headstart extract` computes their features again."
        ),
    ] = False
    rebuild_catalog: Annotated[bool, Option("--rebuild-catalog", help="Create a new catalog from the shards.")] = False
    cut: Cut = ""


@dataclass(frozen=True)
class PackConfig:
    """Options of `pack`."""

    store: Store
    out: Annotated[Path, Argument(help="HDF5 file to write.", metavar="OUT.h5")]
    compression: Annotated[Compression, Option(help="Compression of the features.")] = Compression.GZIP
    cut: Cut = ""


def info(config: InfoConfig, console: Console) -> Mapping[str, Any]:
    """Show the pictures, the features and the fingerprint of a store.

    Examples:
        headstart features info work/store
    """
    cuts = split_cuts(config.cut)
    if len(cuts) > 1:
        return {"cuts": {cut: _show_store(config.store, cut, console) for cut in cuts}}
    return _show_store(config.store, config.cut, console)


def _show_store(path: Path, cut: str, console: Console) -> Mapping[str, Any]:
    from features.cuts import open_store

    store = open_store(path, cut)
    source = store.contents.labels
    counts = sorted(
        Counter(
            (image.split, label, image.status.value)
            for image in store.images
            for label in source.list_labels(image.label)
        ).items()
    )
    num_bytes = sum(shard.num_bytes for shard in store.shards) or store.path.stat().st_size
    share = num_bytes / max(2 * store.num_features * prod(store.feature_shape), 1)
    fingerprint = {**asdict(store.fingerprint), "digest": store.fingerprint.digest}
    console.show_table(
        f"{store.path}",
        [
            *_describe_counts(counts),
            ("features", f"{store.num_features:,}, each {' x '.join(map(str, store.feature_shape))}"),
            ("numbers", store.fingerprint.numbers),
            *([("views", f"{store.num_views} of each training picture")] if store.num_views > 1 else []),
            ("usable", format_count(len(store), "picture")),
            ("shards", f"{len(store.shards):,}"),
            ("on disk", f"{format_bytes(num_bytes)}, {share:.2f} of the uncompressed size"),
            ("pictures from", store.images_folder or "unknown"),
            *([("part of the folder", store.contents.part)] if store.contents.part else []),
            *([("labels from", source.describe())] if source.table else []),
            ("weights", f"{store.origin.weights_name} {store.origin.weights_file}"),
            *((f"fingerprint: {name}", value) for name, value in fingerprint.items() if value != ""),
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
        "part": store.contents.part,
        "labels": asdict(source) if source.table else None,
        "fingerprint": fingerprint,
        "origin": asdict(store.origin),
    }


def _describe_counts(counts: Sequence[tuple[tuple[str, str, str], int]]) -> list[tuple[str, str]]:
    """Describe the number of pictures of each split, class and status; with many classes, those of each split."""
    if len(counts) <= NUM_COUNTS_SHOWN:
        return [("/".join(filter(None, key[:2])), f"{count:,} {key[2]}") for key, count in counts]
    groups: dict[tuple[str, str], list[int]] = {}
    for (split, _, status), count in counts:
        groups.setdefault((split, status), []).append(count)
    rows = []
    for (split, status), found in groups.items():
        least, most = min(found), max(found)
        each = f"{least:,} to {most:,}" if least < most else f"{least:,}"
        rows.append((split or "pictures", f"{sum(found):,} {status}, {each} of each of {len(found):,} classes"))
    return rows


def check(config: CheckConfig, console: Console) -> Mapping[str, Any]:
    """Check a store for damage; only --quarantine and --rebuild-catalog change it.

    Examples:
        headstart features check work/store --read-data
    """
    from features.cuts import resolve_cut

    cuts = split_cuts(config.cut)
    results = [_check_store(resolve_cut(config.store, cut), config, console) for cut in cuts]
    found = results[0] if len(cuts) == 1 else {"ok": True, "cuts": dict(zip(cuts, results, strict=True))}
    if not all(result["ok"] for result in results):
        raise CommandFailed({**found, "ok": False})
    return found


def _check_store(store: Path, config: CheckConfig, console: Console) -> Mapping[str, Any]:
    from base.errors import StoreMissingError
    from base.places.open import open_pictures
    from features.catalog.catalog import CATALOG_NAME
    from features.maintenance import check as checks
    from features.shards.shard import SHARD_FOLDER

    if not store.is_dir() or not any((store / name).exists() for name in (SHARD_FOLDER, CATALOG_NAME)):
        got = "a file" if store.is_file() else "no store"
        raise StoreMissingError(store, "the folder of a feature store", got, "Check the path")
    if config.rebuild_catalog:
        num_features, lost = checks.rebuild_catalog(store)
        console.info(
            f"{store}: created a catalog of {format_count(num_features, 'feature')}. Run "
            f"`{format_command('extract')}` again with the same options to add the pictures to it; only missing "
            "features are computed."
        )
        for note in lost:
            console.warning(note)
    elif not (store / CATALOG_NAME).is_file():
        command = format_command("features check", store, "--rebuild-catalog")
        raise StoreMissingError(store, "a catalog", "none", f"Run `{command}`")
    images = open_pictures(config.images) if config.images else None
    with console.progress("check", len(list((store / SHARD_FOLDER).glob("*.h5"))), "shards") as progress:
        problems = checks.find_problems(
            store,
            read_data=config.read_data,
            images=images,
            advance=progress.advance,
        )
    for problem in problems:
        console.warning(f"{problem.where}: {problem.what}")
    result: dict[str, Any] = {"ok": not problems, "problems": [asdict(problem) for problem in problems]}
    if config.quarantine:
        result["forgotten"] = checks.quarantine_shards(store, problems)
        num_lost = format_count(result["forgotten"], "feature")
        console.info(
            f"{num_lost} must be computed again. Run `{format_command('extract')}` again with the same options."
        )
    if problems:
        return result
    notes = checks.list_notes(store)
    scope = "every byte was read" if config.read_data else "file sizes only; --read-data reads every byte"
    for note in (*notes, f"{store}: no problem found ({scope})"):
        console.info(note)
    return {**result, "notes": notes}


def pack(config: PackConfig, console: Console) -> Mapping[str, Any]:
    """Write a store as a single HDF5 file for h5py, h5web and HDFView; training commands accept it as --store.

    Examples:
        headstart features pack work/store store.h5
    """
    from features.cuts import open_store
    from features.packed.write import is_packed, list_rows, pack_store

    if len(split_cuts(config.cut)) > 1:
        raise UsageError("--cut", "one cut layer", config.cut, "Pack each cut layer into its own file")
    store = open_store(config.store, config.cut)
    num_rows = len(list_rows(store))
    if is_packed(store, config.out):
        console.info(f"{config.out}: already has the features of this store; nothing to do")
    else:
        with console.progress("pack", num_rows, "features") as progress:
            pack_store(store, config.out, config.compression, progress.advance)
    size = config.out.stat().st_size
    console.show_table(f"{config.out}", [("features", f"{num_rows:,}"), ("size", format_bytes(size))])
    return {"features": num_rows, "bytes": size, "file": str(config.out)}


def main(name: str) -> None:
    """Run the command line and end the process; `name` is the program name in the help."""
    commands: dict[str, tuple[CommandFunction[Any], type]] = {
        "info": (info, InfoConfig),
        "check": (check, CheckConfig),
        "pack": (pack, PackConfig),
        "prune": (prune, PruneConfig),
        "merge": (merge, MergeConfig),
        "push": (push, PushConfig),
        "pull": (pull, PullConfig),
    }
    run_commands(commands, name)


if __name__ == "__main__":
    main("python -m features")
