"""Load an exported model without Keras's deserialisation: built in code from its card, with the file's arrays."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from base.errors import HeadstartError
from base.terminal import import_quietly
from extract.backbone import build_backbone, cut_backbone
from features.schema import Pool
from features.shards.validate import validate_untrusted_hdf5
from train_head.data.batches import Array
from train_head.export.stitch import stitch
from train_head.runs.card import CARD_NAME, ModelCard, open_export
from train_head.solvers.head import HeadWeights, count_outputs, restore_head

if TYPE_CHECKING:
    import keras

WEIGHTS_NAME = "model.weights.h5"
MAX_PIXELS_AT_ONCE = 2**22
"""Of a batch: the backbone takes some 200 bytes a pixel."""
_HEAD, _BACKBONE = "layers/sequential/layers/", "layers/functional/layers/"
_HEAD_ARRAYS = ("dense/vars/0", "dense/vars/1", "dense_1/vars/0", "dense_1/vars/1")
"""In the order of `HeadWeights`."""
_KINDS = {"Conv2D": "conv2d", "BatchNormalization": "batch_normalization"}
"""Names that Keras gives in a weights file to the layers of a backbone that have weights, before their numbers."""


def load_export(path: Path) -> tuple[ModelCard, keras.Model]:
    """Load a `model.keras` that may be foreign: nothing of its configuration is read, and nothing in it can run.

    Raises:
        HeadstartError: there is no such file, or it is no exported model.
    """
    card, arrays = read_export(path)
    import_quietly("keras")
    try:
        return card, rebuild_model(card, arrays)
    except (HeadstartError, ValueError, KeyError) as error:
        raise HeadstartError(path, "the arrays of an exported model", str(error), "Export it again") from error


def read_export(path: Path) -> tuple[ModelCard, dict[str, Array]]:
    """Read an exported model's card and weights, by their names in the file; needs no TensorFlow.

    Raises:
        HeadstartError: there is no such file, it was edited, or it is no exported model.
    """
    with open_export(path) as (card, archive):
        members = {name: archive.read(name) for name in archive.namelist() if name != CARD_NAME}
        # Older exports have neither.
        if (card.digest or card.weights_sha256) and card.digest != card.compute_digest(members):
            raise ValueError("a file that was edited after it was exported: its digest is another")
        data = members.pop(WEIGHTS_NAME)
        arrays: dict[str, Array] = {}
        with h5py.File(io.BytesIO(data)) as file:
            validate_untrusted_hdf5(file, data, len(data))

            def read(name: str, item: object) -> None:
                if isinstance(item, h5py.Dataset) and "/seed_generator/" not in name:
                    arrays[name] = item[()]

            file.visititems(read)
    return card, arrays


def rebuild_model(card: ModelCard, arrays: Mapping[str, Array]) -> keras.Model:
    """Build the model that a card describes, and give it its weights.

    Raises:
        HeadstartError, KeyError, ValueError: the arrays are not those of that model.
    """
    if any(array.dtype != np.float32 for array in arrays.values()):
        raise ValueError("arrays of another type than float32")
    weights = HeadWeights(*(arrays[_HEAD + name] for name in _HEAD_ARRAYS))
    num_inputs, num_units = weights.hidden_kernel.shape
    whole = build_backbone(card.image_size, None)
    # A pooled backbone has a kernel of as many rows as its cut layer has channels.
    backbones = (cut_backbone(whole, card.cut, pool) for pool in (Pool.NONE, Pool.AVG))
    backbone = next((found for found in backbones if prod(found.output_shape[1:]) == num_inputs), None)
    if backbone is None or weights.output_kernel.shape != (num_units, count_outputs(len(card.classes))):
        raise ValueError(f"a head of other inputs or outputs than {card.cut} and {len(card.classes)} classes")
    layers = _name_layers(backbone)
    names = {f"{place}{number}" for place, layer in layers.items() for number in range(len(layer.weights))}
    if others := arrays.keys() ^ names ^ {_HEAD + name for name in _HEAD_ARRAYS}:
        raise ValueError(f"{len(others)} arrays more or fewer, such as {min(others)!r}")
    for place, layer in layers.items():
        layer.set_weights([arrays[f"{place}{number}"] for number in range(len(layer.weights))])
    head = restore_head(weights, backbone.output_shape[1:], len(card.classes), dropout=0.0)
    return stitch(backbone, head, card.image_size)


def compile_model(model: keras.Model) -> Callable[[Any], Array]:
    """Return a model's function of pictures of any size, (n, height, width, 3) in 0-255, traced once."""
    import tensorflow as tf

    specification = tf.TensorSpec((None, None, None, 3), tf.float32)
    function = tf.function(lambda images: model(images, training=False), input_signature=[specification])
    run = function.get_concrete_function()
    return lambda images: run(tf.constant(images, tf.float32)).numpy()


def limit_batch(batch_size: int, image_size: int) -> int:
    """Return how many pictures of a size are run together: a batch, or fewer large ones."""
    return max(1, min(batch_size, MAX_PIXELS_AT_ONCE // image_size**2))


def _name_layers(backbone: keras.Model) -> dict[str, keras.layers.Layer]:
    """Find a backbone's layers with weights by their place in a weights file of Keras 3."""
    found: dict[str, keras.layers.Layer] = {}
    counts: Counter[str] = Counter()
    for layer in backbone.layers:
        if layer.weights:
            kind = _KINDS[type(layer).__name__]
            number = f"_{counts[kind]}" if counts[kind] else ""
            found[f"{_BACKBONE}{kind}{number}/vars/"] = layer
            counts[kind] += 1
    return found
