"""Compare the layers of backbones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from extract.backbone import name_layers

if TYPE_CHECKING:
    import keras

LAST_BLOCK = frozenset(f"conv2d_{number}" for number in range(60, 70))
"""Convolutions between mixed6 and mixed7: figure 6 of Szegedy et al. 2015 (arXiv:1512.00567), numbered by Keras."""
SMALL_BLOCK = frozenset({"conv2d_6", "conv2d_7"})
"""Convolutions between mixed6 and mixed7 of the small backbone."""


def list_weights(model: keras.Model) -> dict[str, list[Any]]:
    """Return the weights of each layer that has any, keyed by layer name."""
    return {name: layer.get_weights() for layer, name in name_layers(model).items() if layer.weights}


def list_changed(model: keras.Model, other: keras.Model) -> set[str]:
    """Return the names of the layers whose weights differ."""
    mine, theirs = list_weights(model), list_weights(other)
    assert mine.keys() == theirs.keys()
    return {name for name in mine if not all(map(np.array_equal, mine[name], theirs[name]))}
