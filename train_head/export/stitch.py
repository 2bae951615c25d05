"""Build the exported model from pixel layers, backbone and head, and save it with its card."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from extract.pixels import build_pixel_layers
from train_head.export.outputs import DISTANCE, FEATURES, PROBABILITY
from train_head.runs.card import CARD_NAME, ModelCard

if TYPE_CHECKING:
    import keras

OLDEST_KERAS = "3.4.0"
"""Oldest version of Keras that loads exported models; `make test-keras` tries it.

Keras 3.3 expects another form of `input_layers`, with which later versions return a list of outputs.
"""
_CONFIG_NAME = "config.json"


class AddedKey(NamedTuple):
    """Argument of Keras's layers and initializers that `OLDEST_KERAS` does not have, and therefore refuses."""

    name: str
    default: object
    """Value with which a layer behaves as in versions without the argument."""
    version: str
    """Version of Keras that added the argument."""


ADDED_KEYS = (
    AddedKey("antialias", False, "3.9"),
    AddedKey("quantization_config", None, "3.13"),
    AddedKey("renorm", False, "3.14"),
    AddedKey("renorm_clipping", None, "3.14"),
    AddedKey("renorm_momentum", 0.99, "3.14"),
    AddedKey("input_axes", None, "3.15"),
    AddedKey("output_axes", None, "3.15"),
)


def stitch(
    backbone: keras.Model,
    head: keras.Model,
    image_size: int,
    distance: keras.Model | None = None,
    *,
    has_features: bool = False,
) -> keras.Model:
    """Join pixel layers, backbone and head into one model.

    Args:
        backbone: from (n, image_size, image_size, 3) pixels in [-1, 1] to features.
        head: from features to outputs.
        image_size: side of the square input of the backbone, in pixels.
        distance: from features to (n, 1) distances, as `build_distance` returns it.
        has_features: whether the features, averaged over height and width, are an output too.

    Returns:
        The model `headstart`, from (n, height, width, 3) RGB pixels in 0-255, of any size, to the head's outputs; with
        further outputs, to a dictionary of `probability`, `distance` and `features`.
    """
    import keras

    pixels = keras.Input((None, None, 3), name="rgb")
    values = pixels
    for layer in build_pixel_layers(image_size):
        values = layer(values)
    # Without training=False, `model(x)` would apply dropout: Keras's Resizing defaults to training=True, and the layers
    # after it inherit that. `fit` and `model(x, training=True)` still apply dropout.
    features = backbone(values, training=False)
    outputs = {PROBABILITY: head(features, training=False)}
    if distance:
        outputs[DISTANCE] = distance(features)
    if has_features:
        outputs[FEATURES] = keras.layers.GlobalAveragePooling2D()(features) if len(features.shape) == 4 else features
    return keras.Model(pixels, outputs if len(outputs) > 1 else outputs[PROBABILITY], name="headstart")


def save_model(
    model: keras.Model, card: ModelCard, path: Path, added: Mapping[str, bytes] = MappingProxyType({})
) -> ModelCard:
    """Save a model in Keras's format with its card inside.

    The configuration is written so that Keras from `OLDEST_KERAS` on can load it.

    Args:
        model: the model of `stitch`.
        card: its card.
        path: the file.
        added: further members of the archive, which Keras does not read.

    Returns:
        The card with its digest and the oldest version of Keras.
    """
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members |= added
    members[_CONFIG_NAME] = json.dumps(remove_added_keys(json.loads(members[_CONFIG_NAME]))).encode()
    card = replace(card, oldest_keras=OLDEST_KERAS)
    card = replace(card, digest=card.compute_digest(members))
    members[CARD_NAME] = json.dumps(asdict(card), indent=2).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return card


def remove_added_keys(config: Any) -> Any:
    """Return a configuration of Keras without the keys of `ADDED_KEYS` that hold their default."""
    if isinstance(config, list):
        return [remove_added_keys(value) for value in config]
    if not isinstance(config, dict):
        return config
    defaults = {key.name: key.default for key in ADDED_KEYS}
    return {
        name: remove_added_keys(value)
        for name, value in config.items()
        if name not in defaults or value != defaults[name]
    }
