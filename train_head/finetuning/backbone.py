"""The backbone of a store's features, and its tail: the layers from the stored cut up to the head."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from base.errors import HeadstartError, UsageError
from base.terminal import Console
from extract.backbone import build_backbone, cut_backbone, hash_weights, name_layers
from extract.weights.find import find_weights
from features.schema import Origin, Pool
from features.store import FeatureStore

if TYPE_CHECKING:
    import keras

TOP = "mixed7"
"""Where the head stands, however much of what is below it is trained again."""
_BLOCK = re.compile(r"^mixed(\d+)$")


def choose_stored_cut(cuts: list[str], layer: str) -> str:
    """Chooses the cut whose features to start from: the last one at or before a block; empty where none is.

    Args:
        cuts: those that are stored.
        layer: a block's output, as mixed6.
    """
    wanted = _BLOCK.match(layer)
    blocks = {int(found[1]): cut for cut in cuts if (found := _BLOCK.match(cut))}
    before = [number for number in blocks if wanted and number <= int(wanted[1])]
    return blocks[max(before)] if before else ""


def cut_tail(model: keras.Model, boundary: str, top: str = TOP) -> keras.Model:
    """Returns the part of the backbone between two layers; its layers, and their weights, are the backbone's own.

    Args:
        model: the whole backbone.
        boundary: a layer through whose output everything goes, as a block's.
        top: the last layer.
    """
    import keras

    layers = {name: layer for layer, name in name_layers(model).items()}
    return keras.Model(layers[boundary].output, layers[top].output, name=f"{boundary}_to_{top}")


def find_boundary(model: keras.Model, cut: str, layer: str) -> str:
    """Finds the last block's output at or before a layer: what comes before it stays as it is.

    Args:
        model: the whole backbone.
        cut: whose features are stored.
        layer: the first that is trained again.

    Raises:
        UsageError: there is no such layer, or none between the stored cut and the top.
    """
    try:
        before = _list_before(model, layer)
    except UsageError as error:
        raise UsageError("--unfreeze-from", error.expected, error.got, error.advice) from error
    known = _list_before(model, TOP)
    if layer == TOP or layer not in known or cut not in before:
        raise UsageError(
            "--unfreeze-from",
            f"a layer from {cut}, whose features are stored, to before {TOP}",
            layer,
            "`python -m extract summary` lists them; an earlier one needs features of an earlier cut",
        )
    blocks = [name for name in before if _BLOCK.match(name)]
    return blocks[-1] if cut in _list_before(model, blocks[-1]) else cut


def list_trained(model: keras.Model, layer: str) -> list[str]:
    """Lists the convolutions that are trained again: the layer itself, and all that its output leads to.

    Normalisations stay as they are: with a few hundred pictures their statistics would be worse than ImageNet's, and
    offsets that move while statistics do not are a second bias. Source: Keras's guide to transfer learning; frozen
    normalisation as in Detectron2.
    """
    kinds = {name: type(found).__name__ for found, name in name_layers(model).items()}
    between = [name for name in _list_before(model, TOP) if kinds[name] == "Conv2D"]
    return [name for name in between if layer in _list_before(model, name)]


def _list_before(model: keras.Model, layer: str) -> list[str]:
    """Lists a layer and all that it is computed from, in the model's order."""
    needed = {id(found) for found in cut_backbone(model, layer).layers}
    return [name for found, name in name_layers(model).items() if id(found) in needed]


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
