"""Checkpoints: the state of an unfinished fit on disk, from which the fit resumes after an interruption."""

from __future__ import annotations

import json
import re
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.files import is_regular, open_synced
from base.regular import RegularFile
from base.system import rename, sync_folder
from base.terminal import Console
from train_head.solvers.head import HeadWeights
from train_head.solvers.history import EarlyStopping, Epoch

MIN_INTERVAL_S = 10.0
"""Shortest time between two checkpoints, in seconds."""
MAX_COST_SHARE = 0.05
"""Largest share of the time that may be spent on writing checkpoints."""
CHECKPOINT_PREFIX = ".checkpoint-"
"""Start of the name of a folder of checkpoints, before the name of the run; it is beside the run."""
FILE_NAMES = re.compile(r"(?:head-)?fit-[0-9]+\.(?:npz|partial)|(?:\.partial-)?outcome-[0-9]+\.json")
"""Names of the files in a folder of checkpoints."""


def list_checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints and outcomes in a folder; none in a linked folder."""
    with suppress(OSError):
        if not folder.is_symlink():
            return [path for path in folder.iterdir() if FILE_NAMES.fullmatch(path.name) and is_regular(path)]
    return []


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints and outcomes in a folder, then the folder if it is empty; a linked folder is kept."""
    with suppress(OSError):
        for path in list_checkpoints(folder):
            path.unlink()
        folder.rmdir()


class Checkpoint:
    """File with the state of an unfinished fit, from which the same fit resumes."""

    def __init__(self, path: Path | None, key: str = "", *, keep_final: bool = False) -> None:
        """Create the checkpoint of a fit; nothing is read or written yet.

        Args:
            path: the file, whose folder may be missing; None saves nothing.
            key: digest of everything that determines the fit. A file with another key is ignored.
            keep_final: whether to save the state after the last epoch too.
        """
        self._path, self._key, self._keep_final = path, key, keep_final
        self._due = time.monotonic() + MIN_INTERVAL_S

    def extend_key(self, digest: bytes) -> None:
        """Append the digest of a further input of the fit to the key."""
        self._key += digest.hex()

    def derive(self, name: str) -> Checkpoint:
        """Return the checkpoint of an earlier stage of this fit, in the same folder; it also keeps the final state."""
        path = self._path and self._path.with_name(f"{name}-{self._path.name}")
        return Checkpoint(path, f"{self._key} {name}", keep_final=True)

    def remove(self) -> None:
        """Remove the file if it exists."""
        if self._path:
            with suppress(OSError):
                self._path.unlink()

    def save_if_due(
        self, list_arrays: Callable[[], Iterable[NDArray[Any]]], stopping: EarlyStopping, num_epochs: int
    ) -> None:
        """Save the state after an epoch if enough time has passed since the last save.

        A failed write, for example on a full disk, is ignored: the fit continues without the checkpoint.

        Args:
            list_arrays: returns the solver's arrays, one after the other; called only if they are saved.
            stopping: the history and the kept weights.
            num_epochs: number of epochs of the whole fit.
        """
        is_final = stopping.is_over or len(stopping.history) >= num_epochs
        is_due = self._keep_final if is_final else time.monotonic() >= self._due
        if not self._path or not stopping.kept or not is_due:
            return
        started = time.monotonic()
        # No step follows the last epoch, so the solver's arrays are not needed.
        arrays: Iterable[NDArray[Any]] = [] if is_final else list_arrays()
        history = [asdict(row) for row in stopping.history]
        partial = self._path.with_suffix(".partial")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open_synced(partial) as file, zipfile.ZipFile(file, "w") as archive:
                # `np.savez` would need copies of all arrays at once.
                num_arrays = 0
                for num_arrays, array in enumerate(arrays, 1):
                    _write_array(archive, f"array_{num_arrays - 1:03}", array)
                for name, array in stopping.kept.to_arrays().items():
                    _write_array(archive, f"kept_{name}", array)
                text = json.dumps({"key": self._key, "num_arrays": num_arrays, "history": history})
                _write_array(archive, "text", np.frombuffer(text.encode(), np.uint8))
            rename(partial, self._path)
            sync_folder(self._path.parent)
        except OSError:
            with suppress(OSError):
                partial.unlink()
        now = time.monotonic()
        self._due = now + max(MIN_INTERVAL_S, (now - started) / MAX_COST_SHARE)

    def load(
        self, patience: int, console: Console, shapes: Sequence[tuple[int, ...]] | None = None
    ) -> tuple[EarlyStopping, list[NDArray[Any]]]:
        """Load the state of an interrupted fit with the same key.

        A file that cannot be used causes a warning and is left in place.

        Args:
            patience: number of epochs, as for `EarlyStopping`.
            console: prints the warning.
            shapes: shapes that the solver's arrays must have; None accepts any.

        Returns:
            The history with the kept weights, and the solver's arrays. Both are empty without a usable
            file; the arrays are also empty after the last epoch.
        """
        if self._path and self._path.is_file():
            try:
                with RegularFile(self._path, follow=True) as file, np.load(file, allow_pickle=False) as loaded:
                    contents = dict(loaded)
                text = json.loads(contents["text"].tobytes())
                if text["key"] == self._key:
                    arrays = [contents[f"array_{number:03}"] for number in range(text["num_arrays"])]
                    if arrays and shapes is not None and [array.shape for array in arrays] != list(shapes):
                        raise ValueError("arrays of unexpected shapes")
                    kept = {
                        name.removeprefix("kept_"): array
                        for name, array in contents.items()
                        if name.startswith("kept_")
                    }
                    history = [Epoch(**row) for row in text["history"]]
                    return EarlyStopping(patience, history, HeadWeights.from_arrays(kept)), arrays
            except Exception as error:
                # zipfile, zlib, json and NumPy each raise their own errors for a damaged .npz.
                reason = str(error) or type(error).__name__
                console.warning(f"{self._path}: unusable checkpoint ({reason}). Training starts from the first epoch")
        return EarlyStopping(patience), []


def _write_array(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    """Add an array to an archive that `np.load` reads."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
        np.lib.format.write_array(entry, array, allow_pickle=False)
