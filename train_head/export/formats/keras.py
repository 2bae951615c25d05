"""Keras format: the exported model itself, which needs no conversion."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from train_head.data.batches import Array
from train_head.export.formats import Source
from train_head.export.load import compile_outputs, load_export
from train_head.export.outputs import Outputs
from train_head.runs.card import MODEL_FILE
from train_head.solvers.head import expand_probabilities


def convert(source: Source, folder: Path) -> None:
    """Copy the model."""
    shutil.copyfile(source.model, folder / MODEL_FILE)


def load(path: Path) -> Callable[[Array], Outputs]:
    """Load a model.keras; see `FormatModule.load`."""
    run = compile_outputs(load_export(path)[1])

    def compute(images: Array) -> Outputs:
        found = run(images)
        return found._replace(probabilities=expand_probabilities(found.probabilities))

    return compute
