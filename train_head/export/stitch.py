"""Build the exported model from pixel layers, backbone and head, and save it with its card."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from extract.pixels import build_pixel_layers
from train_head.runs.card import CARD_NAME, ModelCard

if TYPE_CHECKING:
    import keras


def stitch(backbone: keras.Model, head: keras.Model, image_size: int) -> keras.Model:
    """Join pixel layers, backbone and head into one model.

    Args:
        backbone: from (n, image_size, image_size, 3) pixels in [-1, 1] to features.
        head: from features to outputs.
        image_size: side of the square input of the backbone, in pixels.

    Returns:
        The model `headstart`, from (n, height, width, 3) RGB pixels in 0-255, of any size, to the head's outputs.
    """
    import keras

    pixels = keras.Input((None, None, 3), name="rgb")
    values = pixels
    for layer in build_pixel_layers(image_size):
        values = layer(values)
    # Without training=False, `model(x)` would apply dropout: Keras's Resizing defaults to training=True, and the layers
    # after it inherit that. `fit` and `model(x, training=True)` still apply dropout.
    features = backbone(values, training=False)
    return keras.Model(pixels, head(features, training=False), name="headstart")


def save_model(model: keras.Model, card: ModelCard, path: Path) -> ModelCard:
    """Save a model in Keras's format with its card inside, and return the card with its digest filled in."""
    model.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        card = replace(card, digest=card.compute_digest({name: archive.read(name) for name in archive.namelist()}))
        archive.writestr(CARD_NAME, json.dumps(asdict(card), indent=2))
    return card
