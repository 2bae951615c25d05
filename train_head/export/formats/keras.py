"""Keras format: the exported model itself, which needs no conversion."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from train_head.data.batches import Array
from train_head.export.formats import Source
from train_head.export.load import add_features, compile_outputs, load_export
from train_head.export.outputs import Outputs
from train_head.runs.card import MODEL_FILE
from train_head.solvers.head import expand_probabilities

if TYPE_CHECKING:
    import keras


def convert(source: Source, folder: Path) -> None:
    """Copy the model."""
    shutil.copyfile(source.model, folder / MODEL_FILE)


def load(path: Path) -> Callable[[Array], Outputs]:
    """Load a model.keras; see `FormatModule.load`."""
    return _compile(load_export(path)[1])


def load_with_features(path: Path) -> Callable[[Array], Outputs]:
    """Load a model.keras as `load` does, with features among its outputs."""
    card, model = load_export(path)
    return _compile(add_features(model, card.image_size))


def _compile(model: keras.Model) -> Callable[[Array], Outputs]:
    run = compile_outputs(model)

    def compute(images: Array) -> Outputs:
        found = run(images)
        return found._replace(probabilities=expand_probabilities(found.probabilities))

    return compute
