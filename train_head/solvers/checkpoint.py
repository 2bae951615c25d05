"""Where an interrupted fit goes on: a file that is written aside and renamed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.arrays import load_arrays
from base.files import open_synced, sync_folder
from base.terminal import Console
from train_head.solvers.head import HeadWeights
from train_head.solvers.history import Epoch, Watch

MIN_INTERVAL_S = 10.0
OWN_NAMES = re.compile(r"(?:head-)?fit-[0-9]+\.(?:npz|partial)|(?:\.partial-)?outcome-[0-9]+\.json")
"""Of what a training keeps in the folder of its checkpoints."""
MAX_COST_SHARE = 0.05
"""Of the time between two checkpoints, what writing one may take."""


@dataclass(frozen=True)
class FitState:
    """A fit at the end of an epoch."""

    arrays: list[NDArray[Any]]
    """The solver's own: weights, the optimizer's state; none at the end of the fit."""
    history: list[Epoch]
    kept: HeadWeights

    def resume(self, patience: int) -> Watch:
        """Goes on with the watch."""
        return Watch(patience, self.history, self.kept)


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints and outcomes in a folder, and the folder where nothing else is in it."""
    with suppress(OSError):
        if folder.is_symlink():
            return
        for path in folder.iterdir():
            if OWN_NAMES.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                path.unlink()
        folder.rmdir()


class Checkpoint:
    """The file of one fit."""

    def __init__(self, path: Path | None, key: str = "", *, keeps_end: bool = False) -> None:
        """Names the file.

        Args:
            path: the file, in a folder that may not exist yet; None keeps nothing.
            key: says what is fitted, on what, how: a state of anything else is not gone on with.
            keeps_end: whether the end of the fit is kept too.
        """
        self._path, self._key, self._keeps_end = path, key, keeps_end
        self._due = time.monotonic() + MIN_INTERVAL_S

    def offer(self, list_arrays: Callable[[], Sequence[NDArray[Any]]], watch: Watch, num_epochs: int) -> None:
        """Saves the state after an epoch, where enough was done since the last time to be worth a file.

        Args:
            list_arrays: gives the solver's own arrays.
            watch: what happened so far.
            num_epochs: how many epochs there will be.
        """
        is_end = watch.is_over or len(watch.history) >= num_epochs
        if self._path and watch.kept and (self._keeps_end if is_end else time.monotonic() >= self._due):
            # After the end there is no step that would need them.
            arrays = [] if is_end else list(list_arrays())
            self._save(self._path, FitState(arrays, watch.history, watch.kept))

    def narrow(self, inputs: bytes) -> None:
        """Ties the state to what the weights are weights of, where the key does not say it.

        Args:
            inputs: a digest of them.
        """
        self._key += inputs.hex()

    def beside(self, name: str) -> Checkpoint:
        """Names the file of a fit that this one begins with, whose end is kept."""
        path = self._path and self._path.with_name(f"{name}-{self._path.name}")
        return Checkpoint(path, f"{self._key} {name}", keeps_end=True)

    def remove(self) -> None:
        """Removes the file."""
        if self._path:
            with suppress(OSError):
                self._path.unlink()

    def _save(self, path: Path, state: FitState) -> None:
        """Writes a state; a full disk costs the checkpoint, not the fit."""
        started = time.monotonic()
        contents: dict[str, Any] = {f"array_{number:03}": array for number, array in enumerate(state.arrays)}
        contents |= {f"kept_{name}": array for name, array in state.kept.list_arrays().items()}
        history = [asdict(row) for row in state.history]
        text = json.dumps({"key": self._key, "num_arrays": len(state.arrays), "history": history})
        partial = path.with_suffix(".partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open_synced(partial) as file:
                np.savez(file, text=np.frombuffer(text.encode(), np.uint8), **contents)
            partial.replace(path)
            sync_folder(path.parent)
        except OSError:
            with suppress(OSError):
                partial.unlink()
        now = time.monotonic()
        self._due = now + max(MIN_INTERVAL_S, (now - started) / MAX_COST_SHARE)

    def load(self, console: Console, shapes: Sequence[tuple[int, ...]] | None = None) -> FitState | None:
        """Reads the state of an interrupted fit of the same key; a file that cannot be used is told, and left behind.

        Args:
            console: told of damage.
            shapes: of the solver's own arrays; None takes any.
        """
        if not self._path or not self._path.is_file():
            return None
        try:
            contents = load_arrays(self._path)
            text = json.loads(contents["text"].tobytes())
            if text["key"] != self._key:
                return None
            arrays = [contents[f"array_{number:03}"] for number in range(text["num_arrays"])]
            if arrays and shapes is not None and [array.shape for array in arrays] != list(shapes):
                raise ValueError("arrays of other shapes, as of another version")
            kept = {name.removeprefix("kept_"): array for name, array in contents.items() if name.startswith("kept_")}
            return FitState(arrays, [Epoch(**row) for row in text["history"]], HeadWeights.from_arrays(kept))
        except Exception as error:
            # A damaged .npz fails in zipfile, in zlib, in json or in NumPy, each with errors of its own.
            console.warn(f"{self._path}: expected a checkpoint, got {error}. Training starts from the beginning")
            return None
