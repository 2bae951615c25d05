"""Takes files out of the way that are not what they should be; nothing is ever deleted."""

from __future__ import annotations

import os
from pathlib import Path

from base.files import sync_folder

QUARANTINE_FOLDER = "quarantine"


def move_to_quarantine(store: Path, path: Path) -> Path:
    """Moves a file of the store into its quarantine, under a name that is free there.

    Returns:
        Where it is now.
    """
    folder = store / QUARANTINE_FOLDER
    folder.mkdir(exist_ok=True)
    target = folder / path.name
    number = 1
    while os.path.lexists(target):
        number += 1
        target = folder / f"{path.name}.{number}"
    path.replace(target)
    sync_folder(folder)
    sync_folder(path.parent)
    return target
