"""Command `prune`: list files that are no longer needed below a folder, and remove them on request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from base.errors import HeadstartError, UsageError, convert_os_error
from base.terminal import Console, format_bytes
from train_head.prune.config import ASKED, KINDS, FolderKind, PruneConfig

if TYPE_CHECKING:
    from features.maintenance.leftovers import Leftover


def prune(config: PruneConfig, console: Console) -> Mapping[str, Any]:
    """List files that are no longer needed below a folder, and their size; --confirm removes them.

    These are checkpoints and incomplete results of interrupted commands, earlier runs, data that can be computed again,
    and features of pictures that are gone, unless a run below the folder needs them.

    Examples:
        headstart prune
        headstart prune work --only checkpoints,runs --confirm
    """
    from base.invocation import format_command
    from features.maintenance.leftovers import free_leftovers, parse_kinds
    from features.maintenance.prune import walk_folders
    from train_head.prune import find

    kinds = parse_kinds(config.only, FolderKind)
    if not config.folder.is_dir():
        raise UsageError(config.folder, "a folder with stores and runs", "no such folder", "Give another folder")
    folders = list(walk_folders(config.folder))
    found = list(find.find_checkpoints(folders)) if FolderKind.CHECKPOINTS in kinds else []
    found += find.find_staging(folders) if FolderKind.STAGING in kinds else []
    found += find.find_earlier_runs(folders) if FolderKind.RUNS in kinds else []
    roots, removed = find.locate_all_runs(config.folder), [each.path for each in found]
    kept = [folder for folder in folders if not {folder, *folder.parents}.intersection(removed)]
    found += find.find_store_leftovers(roots, kept, removed, kinds, console)
    asked: list[Leftover] = []
    try:
        asked += find.find_earlier_stores(roots, kept, removed)
        asked += find.find_earlier_exports(roots, kept, removed)
    except (HeadstartError, OSError) as error:
        text = convert_os_error(error, str(config.folder)) if isinstance(error, OSError) else error
        console.warning(f"kept earlier stores and exported models, because runs may need them. {text}")
    found += [each for each in asked if each.kind in kinds]
    words = [*(["--only", config.only] if config.only != KINDS else []), "--confirm"]
    command = format_command("prune", config.folder, *words)
    result = free_leftovers(config.folder, found, console, confirm=config.confirm, command=command)
    if config.only == KINDS and asked:
        names = ",".join(kind for kind in ASKED if kind in {each.kind for each in asked})
        size = format_bytes(sum(each.num_bytes for each in asked))
        console.info(f"kept {size} of {' and '.join(names.split(','))}. Give --only {names} to list them")
    return result
