"""Keras format: the exported model itself, which needs no conversion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from train_head.data.batches import Array
from train_head.export.load import add_features, compile_outputs, load_export
from train_head.export.outputs import Outputs
from train_head.solvers.head import expand_probabilities

if TYPE_CHECKING:
    import keras


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
