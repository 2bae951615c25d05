"""Load an exported model: the layers are built in code from its card, and the weights are read from its file."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from base.errors import HeadstartError
from base.terminal import format_count, import_quietly
from extract.backbone import build_backbone, cut_backbone, tap_backbone
from features.options import Pool, split_cuts
from features.shards.validate import validate_untrusted_hdf5
from train_head.data.batches import Array
from train_head.export.distance import ARRAYS as DISTANCE_ARRAYS
from train_head.export.distance import DISTANCE_NAME, build_distance, find_arrays
from train_head.export.outputs import DISTANCE, FEATURES, PROBABILITY, Outputs
from train_head.export.stitch import stitch
from train_head.runs.card import CARD_NAME, ModelCard, open_export
from train_head.solvers.head import FactoredWeights, HeadWeights, plan_outputs, restore_head

if TYPE_CHECKING:
    import keras

WEIGHTS_NAME = "model.weights.h5"
MAX_PIXELS_AT_ONCE = 2**22
"""Largest number of pixels in one batch; the backbone needs about 200 bytes of memory for each."""
_HEAD, _BACKBONE = "layers/sequential/layers/", "layers/functional/layers/"
_HEAD_ARRAYS = ("dense/vars/0", "dense/vars/1", "dense_1/vars/0", "dense_1/vars/1")
"""HDF5 datasets of the head below `_HEAD`, in the order of the fields of `HeadWeights`; two for a linear head."""
_FACTORED_ARRAYS = ("dense/vars/0", "dense_1/vars/0", "dense_1/vars/1", "dense_2/vars/0", "dense_2/vars/1")
"""Those of a factored head: first its factor, which has no bias."""
_DISTANCE = "layers/functional_1/layers/"
_KINDS = {"Conv2D": "conv2d", "BatchNormalization": "batch_normalization"}
"""Layer types of the backbone that have weights, and the names that a Keras weights file uses for them."""


def load_export(path: Path) -> tuple[ModelCard, keras.Model]:
    """Load an exported model that may come from an untrusted source.

    Only the card and the weights are read. Keras's configuration in the file is ignored, so that no code in it can run.

    Args:
        path: the `model.keras`.

    Returns:
        The card, and the model from (n, height, width, 3) RGB pixels in 0-255 to the head's outputs; if the file has
        the arrays of the distance, to a dictionary with `probability` and `distance`.

    Raises:
        HeadstartError: the file does not exist, or is not an exported model.
    """
    card, arrays = read_export(path)
    import_quietly("keras")
    try:
        return card, rebuild_model(card, arrays)
    except (HeadstartError, ValueError) as error:
        got = f"{error.where}: {error.got}" if isinstance(error, HeadstartError) else str(error)
        raise HeadstartError(path, "the weights of an exported model", got, "Export it again") from error


def read_export(path: Path) -> tuple[ModelCard, dict[str, Array]]:
    """Read an exported model's card and weights without importing TensorFlow.

    Returns:
        The card, and the arrays by dataset name.

    Raises:
        HeadstartError: the file does not exist, was changed after export, or is not an exported model.
    """
    with open_export(path) as (card, archive):
        members = {name: archive.read(name) for name in archive.namelist() if name != CARD_NAME}
        # Exports of earlier versions have neither of the two digests.
        if (card.digest or card.weights_sha256) and card.digest != card.compute_digest(members):
            raise ValueError("a file that was changed after export: its SHA-256 digest does not match")
        arrays = _read_arrays(members.pop(WEIGHTS_NAME))
        if DISTANCE_NAME in members:
            arrays |= {_DISTANCE + name: array for name, array in _read_arrays(members[DISTANCE_NAME]).items()}
    return card, arrays


def _read_arrays(data: bytes) -> dict[str, Array]:
    """Read the arrays of an untrusted HDF5 file, by dataset name, without random states."""
    arrays: dict[str, Array] = {}

    def read(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and "/seed_generator/" not in name:
            arrays[name] = item[()]

    with h5py.File(io.BytesIO(data)) as file:
        validate_untrusted_hdf5(file, data, len(data))
        file.visititems(read)
    return arrays


def rebuild_model(card: ModelCard, arrays: Mapping[str, Array]) -> keras.Model:
    """Build the model that a card describes, and set its weights.

    Args:
        card: the model's card.
        arrays: the arrays of its weights file, by dataset name.

    Raises:
        HeadstartError, ValueError: the arrays do not match the card.
    """
    if any(array.dtype != np.float32 for array in arrays.values()):
        raise ValueError("arrays that are not float32")
    weights, head_names = _find_head(arrays)
    if weights.input_kernel.ndim != 2:
        raise ValueError(f"a kernel of shape {weights.input_kernel.shape}")
    num_inputs = len(weights.input_kernel)
    backbone = next((found for found in _build_backbones(card) if prod(found.output_shape[1:]) == num_inputs), None)
    outputs = plan_outputs(len(card.classes), is_multi_label=card.is_multi_label)
    expected = num_inputs if weights.hidden_kernel is None else weights.hidden_kernel.shape[-1], outputs.num_outputs
    if backbone is None or weights.output_kernel.shape != expected:
        num_classes = format_count(len(card.classes), "class", "classes")
        raise ValueError(f"a head that does not fit the cut layer {card.cut} and {num_classes}")
    layers = _find_layers(backbone)
    names = {f"{group}{number}" for group, layer in layers.items() for number in range(len(layer.weights))}
    distance = find_arrays(arrays, _DISTANCE)
    names |= {_DISTANCE + name for name in DISTANCE_ARRAYS if distance}
    if unmatched := arrays.keys() ^ names ^ set(head_names):
        raise ValueError(f"{format_count(len(unmatched), 'missing or unknown array')}, such as {min(unmatched)!r}")
    for group, layer in layers.items():
        layer.set_weights([arrays[f"{group}{number}"] for number in range(len(layer.weights))])
    head = restore_head(weights, backbone.output_shape[1:], outputs, dropout=0.0)
    measure = build_distance(backbone.output_shape[1:], distance) if distance else None
    return stitch(backbone, head, card.image_size, measure)


def _find_head(arrays: Mapping[str, Array]) -> tuple[HeadWeights, list[str]]:
    """Find the head among the arrays of a weights file, and return it with the names of its arrays.

    Raises:
        ValueError: an array is missing.
    """
    is_factored = _HEAD + _FACTORED_ARRAYS[-2] in arrays
    is_linear = not arrays.keys() & {_HEAD + name for name in _HEAD_ARRAYS[2:]}
    names = [_HEAD + name for name in (_FACTORED_ARRAYS if is_factored else _HEAD_ARRAYS[: 2 if is_linear else 4])]
    if missing := set(names) - arrays.keys():
        raise ValueError(f"no array {min(missing)!r}")
    found = [arrays[name] for name in names]
    if is_factored:
        factor, *others = found
        return FactoredWeights(*others[:4], factor=factor), names
    return HeadWeights(None, None, *found) if is_linear else HeadWeights(*found), names


def add_features(model: keras.Model, image_size: int) -> keras.Model:
    """Return a loaded model with its features, averaged over height and width, as a further output."""
    import keras

    parts = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    (head,) = (part for part in parts if isinstance(part, keras.Sequential))
    backbone, *distance = (part for part in parts if part is not head)
    return stitch(backbone, head, image_size, *distance, has_features=True)


def compile_outputs(model: keras.Model) -> Callable[[Any], Outputs]:
    """Compile a model into a function that maps RGB pixels to all outputs of the model.

    The pixels are (n, height, width, 3) in 0-255, of any size. TensorFlow traces the function once for all sizes.
    """
    import tensorflow as tf

    specification = tf.TensorSpec((None, None, None, 3), tf.float32)
    function = tf.function(lambda images: model(images, training=False), input_signature=[specification])
    run = function.get_concrete_function()

    def compute(images: Any) -> Outputs:
        found = run(tf.constant(images, tf.float32))
        if not isinstance(found, dict):
            return Outputs(found.numpy(), None)
        distances, features = found.get(DISTANCE), found.get(FEATURES)
        return Outputs(
            found[PROBABILITY].numpy(),
            None if distances is None else distances.numpy()[:, 0],
            None if features is None else features.numpy(),
        )

    return compute


def limit_batch(batch_size: int, image_size: int) -> int:
    """Return the number of pictures in one batch: `batch_size`, or fewer if the pictures are large.

    Args:
        batch_size: largest number of pictures in a batch.
        image_size: side of the square pictures, in pixels.
    """
    return max(1, min(batch_size, MAX_PIXELS_AT_ONCE // image_size**2))


def _build_backbones(card: ModelCard) -> Iterator[keras.Model]:
    """Build the backbone that a card describes; the card of an older export may describe two."""
    whole, cuts = build_backbone(card.image_size, None), split_cuts(card.cut)
    # Older cards do not record the pooling, but the kernel shows it: pooled features have one row per channel.
    for pool in [Pool(card.pool)] if card.pool else (Pool.NONE, Pool.AVG):
        if len(cuts) > 1:
            yield tap_backbone(whole, cuts, pool, card.scales)
        else:
            yield cut_backbone(whole, card.cut, pool)


def _find_layers(backbone: keras.Model) -> dict[str, keras.layers.Layer]:
    """Map each group of a Keras 3 weights file to the backbone layer whose weights it contains."""
    found: dict[str, keras.layers.Layer] = {}
    counts: Counter[str] = Counter()
    for layer in backbone.layers:
        if layer.weights:
            kind = _KINDS[type(layer).__name__]
            number = f"_{counts[kind]}" if counts[kind] else ""
            found[f"{_BACKBONE}{kind}{number}/vars/"] = layer
            counts[kind] += 1
    return found
