"""One Keras model from pixel layers, backbone and head, and its file with a card in it."""

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
    """Build the model from (n, height, width, 3) raw RGB, 0–255, any size, through a backbone to a head's outputs."""
    import keras

    pixels = keras.Input((None, None, 3), name="rgb")
    values = pixels
    for layer in build_pixel_layers(image_size):
        values = layer(values)
    # Keras's Resizing passes training=True where the caller gives none, and what follows it would too:
    # `model(x)` would drop units at random. `fit` still trains.
    features = backbone(values, training=False)
    return keras.Model(pixels, head(features, training=False), name="headstart")


def save_model(model: keras.Model, card: ModelCard, path: Path) -> ModelCard:
    """Write a model in Keras's format with its card in it; return the card with the digest of both."""
    model.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        card = replace(card, digest=card.compute_digest({name: archive.read(name) for name in archive.namelist()}))
        archive.writestr(CARD_NAME, json.dumps(asdict(card), indent=2))
    return card
