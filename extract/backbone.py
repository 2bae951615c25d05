"""Build InceptionV3, load its weights, cut it at a layer, and list its layers."""

from __future__ import annotations

import difflib
import hashlib
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import HeadstartError, UsageError
from base.invocation import format_command
from extract.weights import nsfwjs
from extract.weights.find import Weights, WeightsName
from features.options import Pool

if TYPE_CHECKING:
    import keras

BACKBONE_NAME = "InceptionV3"
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 75, 1024
RANDOM_SEED = 0
_NUM_LAYERS = {
    **dict.fromkeys(["conv2d", "batch_normalization", "activation"], 94),
    **{"max_pooling2d": 4, "average_pooling2d": 9, "concatenate": 2},
}
"""Number of layers of each kind; Keras numbers them from `conv2d` and `conv2d_1` on."""
LAYER_NAMES = (
    *(f"mixed{number}" for number in range(11)),
    *("mixed9_0", "mixed9_1"),
    *(f"{kind}_{number}" if number else kind for kind, count in _NUM_LAYERS.items() for number in range(count)),
)
"""Names of the layers at which the backbone can be cut."""


def check_backbone_arguments(cuts: Sequence[str], image_size: int) -> None:
    """Raise UsageError for an unknown cut or an unsupported image size, without importing TensorFlow."""
    if not MIN_IMAGE_SIZE <= image_size <= MAX_IMAGE_SIZE:
        expected = f"{MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE} pixels"
        raise UsageError("--image-size", expected, f"{image_size}", "Give another size; the default is 150")
    for cut in cuts:
        if cut not in LAYER_NAMES:
            raise _build_layer_error(cut, LAYER_NAMES)
    if len(set(cuts)) < len(cuts):
        raise UsageError("--cut", "different layers", ",".join(cuts), "Give each layer once")


def build_backbone(image_size: int, weights: Weights | None) -> keras.Model:
    """Build InceptionV3 without its top layers, load weights, and freeze all layers.

    Args:
        image_size: side of the square input, in pixels.
        weights: weights to load; None leaves Keras's initial values, for callers that need only the architecture.

    Returns:
        The model; its input is (n, image_size, image_size, 3) float32 in [-1, 1].

    Raises:
        HeadstartError: the weights file does not fit the architecture.
    """
    import keras

    model = keras.applications.InceptionV3(input_shape=(image_size, image_size, 3), include_top=False, weights=None)
    if weights is not None and weights.path is None:
        _set_random_weights(model)
    elif weights is not None:
        _load_weights(model, weights)
    for layer in model.layers:
        layer.trainable = False
    return model


def cut_backbone(model: keras.Model, cut: str, pool: Pool = Pool.NONE) -> keras.Model:
    """Return the part of the backbone up to the cut layer; `Pool.AVG` adds the mean over height and width.

    Raises:
        UsageError: the model has no such layer; the advice lists similar names.
    """
    import keras

    layers = {name: layer for layer, name in name_layers(model).items()}
    if cut not in layers:
        raise _build_layer_error(cut, list(layers))
    output = layers[cut].output
    if pool is Pool.AVG:
        output = keras.layers.GlobalAveragePooling2D(name=f"pool_{cut}")(output)
    return keras.Model(model.inputs[0], output, name=f"{BACKBONE_NAME.lower()}_to_{cut}")


def tap_backbone(model: keras.Model, cuts: Sequence[str], pool: Pool, scales: Sequence[float]) -> keras.Model:
    """Return the part of the backbone up to several cut layers, whose pooled outputs are scaled and concatenated.

    Args:
        model: the backbone.
        cuts: names of the cut layers, in the order of the outputs.
        pool: pooling of each output; not `Pool.NONE`.
        scales: factor of each output.

    Raises:
        UsageError: the model has no such layer.
    """
    import keras

    pooled = [cut_backbone(model, cut, pool).output for cut in cuts]
    outputs = [
        keras.layers.Rescaling(scale, name=f"scale_{cut}")(output)
        for cut, scale, output in zip(cuts, scales, pooled, strict=True)
    ]
    joined = keras.layers.Concatenate(name="cuts")(outputs)
    return keras.Model(model.inputs[0], joined, name=f"{BACKBONE_NAME.lower()}_to_{'_'.join(cuts)}")


def join_cuts(models: Sequence[keras.Model]) -> keras.Model:
    """Combine cut backbones of the same model into one model with an output for each cut."""
    import keras

    return keras.Model(models[0].inputs[0], [model.output for model in models], name=f"{BACKBONE_NAME.lower()}_cuts")


def hash_weights(model: keras.Model) -> str:
    """Return the SHA-256 over dtype, shape and bytes of all weight tensors, in the order of the layers."""
    digest = hashlib.sha256()
    for value in model.get_weights():
        array = np.ascontiguousarray(value, np.dtype("<f4"))
        digest.update(f"<f4{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def name_layers(model: keras.Model) -> dict[keras.layers.Layer, str]:
    """Return the names that the layers would have in a new process; Keras numbers layers across all models."""
    names = {layer: layer.name for layer in model.layers}
    families: dict[str, list[keras.layers.Layer]] = {}
    for layer in sorted(model.layers, key=lambda layer: _find_number(layer.name)):
        if not layer.name.startswith("mixed"):
            families.setdefault(re.sub(r"_\d+$", "", layer.name), []).append(layer)
    for family, members in families.items():
        names |= {layer: f"{family}_{rank}" if rank else family for rank, layer in enumerate(members)}
    return names


def summarise_layers(model: keras.Model, cut: str) -> list[dict[str, Any]]:
    """Describe each layer: name, kind, output_shape, num_parameters, and whether the cut depends on it (in_prefix)."""
    prefix = {id(layer) for layer in cut_backbone(model, cut).layers}
    return [
        {
            "name": name,
            "kind": type(layer).__name__,
            "output_shape": tuple(layer.output.shape[1:]),
            "num_parameters": int(layer.count_params()),
            "in_prefix": id(layer) in prefix,
        }
        for layer, name in name_layers(model).items()
    ]


def _load_weights(model: keras.Model, weights: Weights) -> None:
    """Load a weights file; raise HeadstartError if layers or shapes differ, or if a weight is not finite."""
    names, path = name_layers(model), weights.path
    try:
        if path is not None and weights.name is WeightsName.NSFWJS:
            weighted = [layer for layer in model.layers if layer.weights]
            # In the order of creation: each convolution, then its batch normalization.
            ordered = sorted(weighted, key=lambda layer: (_find_number(names[layer]), "conv2d" not in names[layer]))
            for layer, (_, arrays) in zip(ordered, nsfwjs.read_layers(path), strict=True):
                layer.set_weights(arrays)
        else:
            with warnings.catch_warnings():
                # If the file does not fit, Keras warns for each layer before it raises an error.
                warnings.simplefilter("ignore", UserWarning)
                model.load_weights(path)
    except (ValueError, OSError, KeyError, TypeError) as error:
        expected, got = f"weights of {BACKBONE_NAME} without its top layers", str(error).splitlines()[0]
        raise HeadstartError(path, expected, got, "Give a file that Keras wrote for this model") from error
    for layer, name in names.items():
        if not all(np.isfinite(array).all() for array in layer.get_weights()):
            raise HeadstartError(
                f"{path}, layer {name!r}", "finite weights", "NaN or infinity", "Download the file again"
            )


def _set_random_weights(model: keras.Model) -> None:
    """Set random weights by He initialization (arXiv:1502.01852), with batch normalization set to the identity."""
    rng = np.random.default_rng(RANDOM_SEED)
    for layer in model.layers:
        shapes = [tuple(weight.shape) for weight in layer.weights]
        if len(shapes) == 1:
            deviation = np.sqrt(2.0 / np.prod(shapes[0][:-1]))
            layer.set_weights([rng.normal(0.0, deviation, shapes[0]).astype(np.float32)])
        elif shapes:
            beta, mean, variance = shapes
            layer.set_weights([np.zeros(beta), np.zeros(mean), np.ones(variance)])


def _find_number(name: str) -> int:
    """Return the number at the end of a layer's name, or 0 if it has none."""
    match = re.search(r"_(\d+)$", name)
    return int(match[1]) if match else 0


def _build_layer_error(cut: str, names: Sequence[str]) -> UsageError:
    nearest = difflib.get_close_matches(cut, names, n=3) or ["mixed7"]
    advice = f"Use {', '.join(nearest)} or another layer; `{format_command('extract summary')}` lists them"
    return UsageError("--cut", f"a layer of {BACKBONE_NAME}", repr(cut), advice)
