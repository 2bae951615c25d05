"""Builds one Keras model from a run and the backbone its features came from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from base.errors import HeadstartError
from base.terminal import Console
from extract.backbone import build_backbone, cut_backbone, hash_weights
from extract.pixels import build_pixel_layers
from extract.weights.find import find_weights
from features.schema import Origin, Pool
from features.store import FeatureStore

if TYPE_CHECKING:
    import keras


def rebuild_backbone(store: FeatureStore, weights: str, console: Console) -> keras.Model:
    """Builds the cut backbone that a store's features were made with.

    Args:
        store: the store.
        weights: a weights file, or empty for the one that the store names.
        console: told what was found.

    Raises:
        HeadstartError: the weights cannot be had, or are not those of the store's fingerprint.
    """
    return cut_backbone(rebuild_whole(store, weights, console), store.fingerprint.cut, _find_pool(store))


def rebuild_whole(store: FeatureStore, weights: str, console: Console) -> keras.Model:
    """Builds the whole backbone that a store's features were made with a part of.

    Args:
        store: the store.
        weights: a weights file, or empty for the one that the store names.
        console: told what was found.

    Raises:
        HeadstartError: the weights cannot be had, or up to the cut are not those of the store's fingerprint.
    """
    found = find_weights(weights or _name_weights(store.origin), console)
    model = build_backbone(store.fingerprint.image_size, found)
    digest = hash_weights(cut_backbone(model, store.fingerprint.cut))
    if digest != store.fingerprint.weights_sha256:
        raise HeadstartError(
            str(found),
            f"the weights of {store.path}, SHA-256 {store.fingerprint.weights_sha256[:12]}… up to the cut",
            f"{digest[:12]}…",
            "Give the file that the features were extracted with: --weights FILE",
        )
    return model


def stitch(backbone: keras.Model, head: keras.Model, image_size: int) -> keras.Model:
    """Joins pixel layers, backbone and head.

    Args:
        backbone: the cut backbone.
        head: from the backbone's output to probabilities.
        image_size: what pictures are resized to, in pixels.

    Returns:
        A model from (n, height, width, 3) raw RGB, 0–255, any size, to the head's probabilities.
    """
    import keras

    pixels = keras.Input((None, None, 3), name="rgb")
    values = pixels
    for layer in build_pixel_layers(image_size):
        values = layer(values)
    # Keras's Resizing calls with training=True where nobody says otherwise, and what follows it would too:
    # `model(x)` would drop units at random. `fit` still trains.
    features = backbone(values, training=False)
    return keras.Model(pixels, head(features, training=False), name="headstart")


def _find_pool(store: FeatureStore) -> Pool:
    """Says what follows the cut layer, whether it was done before features were stored or after."""
    return Pool.NONE if store.fingerprint.pool == Pool.NONE else Pool.AVG


def _name_weights(origin: Origin) -> str:
    if origin.weights_file and Path(origin.weights_file).is_file():
        return origin.weights_file
    if origin.weights_name == "file":
        raise HeadstartError(
            origin.weights_file,
            "the weights that the features were made with",
            "no such file",
            "Give --weights FILE",
        )
    return origin.weights_name
