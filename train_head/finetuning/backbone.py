"""The backbone of a store's features, and its tail: the layers between the stored cut and the head."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from base.errors import HeadstartError, UsageError
from base.invocation import format_command
from base.terminal import Console
from extract.backbone import build_backbone, cut_backbone, hash_weights, name_layers, tap_backbone
from extract.weights.find import find_weights
from features.options import Pool
from features.schema import Origin
from features.store import FeatureStore

if TYPE_CHECKING:
    import keras

TOP = "mixed7"
"""The layer whose output is the input of the head, whichever layers are fine-tuned."""
_BLOCK = re.compile(r"^mixed(\d+)$")


def choose_stored_cut(cuts: list[str], layer: str) -> str:
    """Return the last stored cut at or before `layer`, a block's output such as mixed6; empty if there is none."""
    wanted = _BLOCK.match(layer)
    blocks = {int(found[1]): cut for cut in cuts if (found := _BLOCK.match(cut))}
    before = [number for number in blocks if wanted and number <= int(wanted[1])]
    return blocks[max(before)] if before else ""


def cut_tail(model: keras.Model, boundary: str, top: str = TOP) -> keras.Model:
    """Return the part of the backbone between a block's output and a layer. It shares the backbone's layers."""
    import keras

    layers = {name: layer for layer, name in name_layers(model).items()}
    return keras.Model(layers[boundary].output, layers[top].output, name=f"{boundary}_to_{top}")


def find_boundary(model: keras.Model, cut: str, layer: str) -> str:
    """Return the last block output at or before `layer`, or `cut` if it is later; raise UsageError if invalid."""
    try:
        before = _list_before(model, layer)
    except UsageError as error:
        raise UsageError("--unfreeze-from", error.expected, error.got, error.advice) from error
    known = _list_before(model, TOP)
    if layer == TOP or layer not in known or cut not in before:
        expected = f"a layer at or after {cut} (the stored cut) and before {TOP}"
        advice = f"List the layers with `{format_command('extract summary')}`, or extract an earlier cut"
        raise UsageError("--unfreeze-from", expected, layer, advice)
    blocks = [name for name in before if _BLOCK.match(name)]
    return blocks[-1] if cut in _list_before(model, blocks[-1]) else cut


def list_trained(model: keras.Model, layer: str) -> list[str]:
    """List the convolutions to fine-tune: those from a layer up to `TOP`.

    Batch normalisation stays frozen, as in Keras's guide to transfer learning and in Detectron2: statistics of a few
    hundred pictures would be worse than ImageNet's, and trained offsets on frozen statistics only add a second bias.
    """
    kinds = {name: type(found).__name__ for found, name in name_layers(model).items()}
    between = [name for name in _list_before(model, TOP) if kinds[name] == "Conv2D"]
    return [name for name in between if layer in _list_before(model, name)]


def _list_before(model: keras.Model, layer: str) -> list[str]:
    """List a layer and all layers that it depends on, in the order of the model."""
    needed = {id(found) for found in cut_backbone(model, layer).layers}
    return [name for found, name in name_layers(model).items() if id(found) in needed]


def rebuild_backbone(store: FeatureStore, weights: str, console: Console) -> keras.Model:
    """Build the backbone of a store's features up to their cut, or with an output for each of several cuts.

    Args:
        store: the store.
        weights: a weights file; empty for the weights that the store records.
        console: output of messages.

    Raises:
        HeadstartError: the weights are missing, or differ from those of the store's fingerprint.
    """
    model, pool = rebuild_full_backbone(store, weights, console), find_pool(store)
    if store.parts:
        return tap_backbone(model, [part.fingerprint.cut for part in store.parts], pool, store.scales)
    return cut_backbone(model, store.fingerprint.cut, pool)


def find_pool(store: FeatureStore) -> Pool:
    """Return the pooling of a store's features.

    Features that were averaged when read have another pool name than `avg`, because they were rounded before averaging.
    The layers are the same.
    """
    return Pool.NONE if store.fingerprint.pool == Pool.NONE else Pool.AVG


def rebuild_full_backbone(store: FeatureStore, weights: str, console: Console) -> keras.Model:
    """Build the full backbone of a store's features, with the arguments and errors of `rebuild_backbone`."""
    found = find_weights(weights or _name_weights(store.origin), console)
    model = build_backbone(store.fingerprint.image_size, found)
    for part in store.parts or (store,):
        digest, expected = hash_weights(cut_backbone(model, part.fingerprint.cut)), part.fingerprint.weights_sha256
        if digest != expected:
            wanted = f"the weights of {part.path}, SHA-256 {expected[:12]}… up to the cut"
            advice = "Give `weights`, the file that the features were extracted with"
            raise HeadstartError(str(found), wanted, f"{digest[:12]}…", advice)
    return model


def _name_weights(origin: Origin) -> str:
    if origin.weights_file and Path(origin.weights_file).is_file():
        return origin.weights_file
    if origin.weights_name == "file":
        expected = "the weights that the features were extracted with"
        raise HeadstartError(origin.weights_file, expected, "no such file", "Give `weights`, the path of that file")
    return origin.weights_name
