"""Checkpoints: where an interrupted fit resumes."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.files import is_regular, open_synced, sync_folder
from base.regular import RegularFile
from base.terminal import Console
from train_head.solvers.head import HeadWeights
from train_head.solvers.history import EarlyStopping, Epoch

MIN_INTERVAL_S = 10.0
MAX_COST_SHARE = 0.05
"""Share of the time between two checkpoints that writing one may take."""
OWN_NAMES = re.compile(r"(?:head-)?fit-[0-9]+\.(?:npz|partial)|(?:\.partial-)?outcome-[0-9]+\.json")
"""Names of files in a folder of checkpoints."""


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints and outcomes in a folder, and the folder where nothing else is in it."""
    with suppress(OSError):
        if folder.is_symlink():
            return
        for path in folder.iterdir():
            if OWN_NAMES.fullmatch(path.name) and is_regular(path):
                path.unlink()
        folder.rmdir()


class Checkpoint:
    """The file of one fit."""

    def __init__(self, path: Path | None, key: str = "", *, keep_final: bool = False) -> None:
        """Describe the file (None keeps nothing), the problem's digest, and whether the end of the fit is kept too."""
        self._path, self._key, self._keeps_end = path, key, keep_final
        self._due = time.monotonic() + MIN_INTERVAL_S

    def extend_key(self, inputs: bytes) -> None:
        """Add a digest of the inputs to the key, where the problem does not determine them."""
        self._key += inputs.hex()

    def derive(self, name: str) -> Checkpoint:
        """Return the checkpoint of a fit that this one begins with, whose end is kept."""
        path = self._path and self._path.with_name(f"{name}-{self._path.name}")
        return Checkpoint(path, f"{self._key} {name}", keep_final=True)

    def remove(self) -> None:
        """Remove the file."""
        if self._path:
            with suppress(OSError):
                self._path.unlink()

    def save_if_due(
        self, list_arrays: Callable[[], Sequence[NDArray[Any]]], stopping: EarlyStopping, num_epochs: int
    ) -> None:
        """Save the state after an epoch, where one is due; a full disk costs the checkpoint, not the fit."""
        is_end = stopping.is_over or len(stopping.history) >= num_epochs
        is_due = self._keeps_end if is_end else time.monotonic() >= self._due
        if not self._path or not stopping.kept or not is_due:
            return
        started = time.monotonic()
        # No step follows the end that would need the solver's arrays.
        arrays = [] if is_end else list_arrays()
        contents: dict[str, Any] = {f"array_{number:03}": array for number, array in enumerate(arrays)}
        contents |= {f"kept_{name}": array for name, array in stopping.kept.list_arrays().items()}
        history = [asdict(row) for row in stopping.history]
        text = json.dumps({"key": self._key, "num_arrays": len(arrays), "history": history})
        partial = self._path.with_suffix(".partial")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open_synced(partial) as file:
                np.savez(file, text=np.frombuffer(text.encode(), np.uint8), **contents)
            partial.replace(self._path)
            sync_folder(self._path.parent)
        except OSError:
            with suppress(OSError):
                partial.unlink()
        now = time.monotonic()
        self._due = now + max(MIN_INTERVAL_S, (now - started) / MAX_COST_SHARE)

    def load(
        self, patience: int, console: Console, shapes: Sequence[tuple[int, ...]] | None = None
    ) -> tuple[EarlyStopping, list[NDArray[Any]]]:
        """Read the state of an interrupted fit of the same key; a file that cannot be used is a warning, and stays.

        Returns:
            The fit so far, and the solver's own arrays: none after the end of the fit, or where there is no file.
        """
        if self._path and self._path.is_file():
            try:
                with RegularFile(self._path, follow=True) as file, np.load(file, allow_pickle=False) as loaded:
                    contents = dict(loaded)
                text = json.loads(contents["text"].tobytes())
                if text["key"] == self._key:
                    arrays = [contents[f"array_{number:03}"] for number in range(text["num_arrays"])]
                    if arrays and shapes is not None and [array.shape for array in arrays] != list(shapes):
                        raise ValueError("arrays of other shapes, as of another version")
                    kept = {name.removeprefix("kept_"): array for name, array in contents.items() if "kept_" in name}
                    history = [Epoch(**row) for row in text["history"]]
                    return EarlyStopping(patience, history, HeadWeights.from_arrays(kept)), arrays
            except Exception as error:
                # A damaged .npz fails in zipfile, in zlib, in json or in NumPy, each with errors of its own.
                got = error or type(error).__name__
                console.warning(f"{self._path}: expected a checkpoint, got {got}. Training starts from the beginning")
        return EarlyStopping(patience), []
