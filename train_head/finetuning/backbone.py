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
"""The layer below the head, whichever layers are trained again."""
_BLOCK = re.compile(r"^mixed(\d+)$")


def choose_stored_cut(cuts: list[str], layer: str) -> str:
    """Choose the last stored cut at or before a block's output, such as mixed6; empty where there is none."""
    wanted = _BLOCK.match(layer)
    blocks = {int(found[1]): cut for cut in cuts if (found := _BLOCK.match(cut))}
    before = [number for number in blocks if wanted and number <= int(wanted[1])]
    return blocks[max(before)] if before else ""


def cut_tail(model: keras.Model, boundary: str, top: str = TOP) -> keras.Model:
    """Return the backbone between a block's output and a layer; its layers, with their weights, are the backbone's."""
    import keras

    layers = {name: layer for layer, name in name_layers(model).items()}
    return keras.Model(layers[boundary].output, layers[top].output, name=f"{boundary}_to_{top}")


def find_boundary(model: keras.Model, cut: str, layer: str) -> str:
    """Find the last block's output at or before the first trained layer; raise UsageError where there is none."""
    try:
        before = _list_before(model, layer)
    except UsageError as error:
        raise UsageError("--unfreeze-from", error.expected, error.got, error.advice) from error
    known = _list_before(model, TOP)
    if layer == TOP or layer not in known or cut not in before:
        expected = f"a layer from {cut}, whose features are stored, to before {TOP}"
        advice = "`python -m extract summary` lists them; an earlier one needs features of an earlier cut"
        raise UsageError("--unfreeze-from", expected, layer, advice)
    blocks = [name for name in before if _BLOCK.match(name)]
    return blocks[-1] if cut in _list_before(model, blocks[-1]) else cut


def list_trained(model: keras.Model, layer: str) -> list[str]:
    """List the convolutions that are trained again: the layer itself, and all that follow it up to the top.

    Normalisations stay as they are: with a few hundred pictures their statistics would be worse than ImageNet's, and
    offsets that move while statistics do not are a second bias. Source: Keras's guide to transfer learning; frozen
    normalisation as in Detectron2.
    """
    kinds = {name: type(found).__name__ for found, name in name_layers(model).items()}
    between = [name for name in _list_before(model, TOP) if kinds[name] == "Conv2D"]
    return [name for name in between if layer in _list_before(model, name)]


def _list_before(model: keras.Model, layer: str) -> list[str]:
    """List a layer and all that it is computed from, in the model's order."""
    needed = {id(found) for found in cut_backbone(model, layer).layers}
    return [name for found, name in name_layers(model).items() if id(found) in needed]


def rebuild_backbone(store: FeatureStore, weights: str, console: Console) -> keras.Model:
    """Build the cut backbone of a store's features from a weights file, or from the store's own where that is empty.

    Raises:
        HeadstartError: the weights are missing, or not those of the store's fingerprint.
    """
    # Means may have been taken before features were stored or after.
    pool = Pool.NONE if store.fingerprint.pool == Pool.NONE else Pool.AVG
    return cut_backbone(rebuild_full_backbone(store, weights, console), store.fingerprint.cut, pool)


def rebuild_full_backbone(store: FeatureStore, weights: str, console: Console) -> keras.Model:
    """Build the whole backbone of a store's features, as `rebuild_backbone` does."""
    found = find_weights(weights or _name_weights(store.origin), console)
    model = build_backbone(store.fingerprint.image_size, found)
    digest, expected = hash_weights(cut_backbone(model, store.fingerprint.cut)), store.fingerprint.weights_sha256
    if digest != expected:
        wanted = f"the weights of {store.path}, SHA-256 {expected[:12]}… up to the cut"
        advice = "Give the file that the features were extracted with: --weights FILE"
        raise HeadstartError(str(found), wanted, f"{digest[:12]}…", advice)
    return model


def _name_weights(origin: Origin) -> str:
    if origin.weights_file and Path(origin.weights_file).is_file():
        return origin.weights_file
    if origin.weights_name == "file":
        expected = "the weights that the features were made with"
        raise HeadstartError(origin.weights_file, expected, "no such file", "Give --weights FILE")
    return origin.weights_name
