"""The frozen InceptionV3: built in code, loaded, cut, and described."""

from __future__ import annotations

import difflib
import hashlib
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from base.errors import HeadstartError, UsageError
from extract.weights import keras_file as weights_file
from extract.weights import nsfwjs
from extract.weights.find import Weights, WeightsName
from extract.weights.keras_file import NamedLayers, WeightsFormat
from features.schema import Pool

if TYPE_CHECKING:
    import keras

BACKBONE_NAME = "InceptionV3"
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 75, 1024
RANDOM_SEED = 0
_NUMBERED = re.compile(r"^(.*?)(?:_(\d+))?$")
_LAYER_NAME = re.compile(
    r"^(mixed(\d|10|9_[01])|(conv2d|batch_normalization|activation|max_pooling2d|average_pooling2d|concatenate)(_\d+)?)$"
)


@dataclass(frozen=True)
class LayerSummary:
    """A line of the architecture."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    num_parameters: int
    in_prefix: bool
    """Whether the cut layer needs it."""


def check_backbone_arguments(cuts: Sequence[str], image_size: int) -> None:
    """Raises UsageError for a cut or a size that cannot be; needs no TensorFlow, so it answers at once."""
    if not MIN_IMAGE_SIZE <= image_size <= MAX_IMAGE_SIZE:
        raise UsageError(
            "--image-size",
            f"{MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE} pixels",
            str(image_size),
            "150 is the default",
        )
    for cut in cuts:
        if not _LAYER_NAME.match(cut):
            raise _no_such_layer(cut, [f"mixed{number}" for number in range(11)])
    if len(set(cuts)) < len(cuts):
        raise UsageError("--cut", "different layers", ",".join(cuts), "Name each once")


def build_backbone(image_size: int, weights: Weights | None) -> keras.Model:
    """Builds InceptionV3 without its top, loads weights, and freezes every layer.

    Args:
        image_size: side of the square input, in pixels.
        weights: what to load; None leaves Keras's own initial values, for a look at the architecture.

    Returns:
        The model; its input is (n, image_size, image_size, 3) float32 in [-1, 1].

    Raises:
        HeadstartError: the file does not fit the architecture.
    """
    import keras

    model = keras.applications.InceptionV3(input_shape=(image_size, image_size, 3), include_top=False, weights=None)
    if weights is not None:
        _load(model, weights)
    for layer in model.layers:
        layer.trainable = False
    return model


def cut_backbone(model: keras.Model, cut: str, pool: Pool = Pool.NONE) -> keras.Model:
    """Returns the part of the backbone up to the cut layer.

    Args:
        model: the whole backbone.
        cut: the layer.
        pool: AVG adds the mean over height and width.

    Raises:
        UsageError: there is no such layer; names the nearest ones.
    """
    import keras

    layers = {name: layer for layer, name in name_layers(model).items()}
    if cut not in layers:
        raise _no_such_layer(cut, list(layers))
    output = layers[cut].output
    if pool is Pool.AVG:
        output = keras.layers.GlobalAveragePooling2D(name=f"pool_{cut}")(output)
    return keras.Model(model.inputs[0], output, name=f"{BACKBONE_NAME.lower()}_to_{cut}")


def join_cuts(models: Sequence[keras.Model]) -> keras.Model:
    """Joins cut backbones, made from one model, into one with an output for each, so that one pass gives them all."""
    import keras

    return keras.Model(models[0].inputs[0], [model.output for model in models], name=f"{BACKBONE_NAME.lower()}_cuts")


def hash_weights(model: keras.Model) -> str:
    """Hashes a model's weight tensors: SHA-256 over dtype, shape and bytes of each, in the layers' order."""
    digest = hashlib.sha256()
    for value in model.get_weights():
        array = np.ascontiguousarray(value, np.dtype("<f4"))
        digest.update(f"<f4{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def name_layers(model: keras.Model) -> dict[keras.layers.Layer, str]:
    """Names layers as a fresh process would: Keras goes on counting when a model is built again."""
    families: dict[str, list[tuple[int, keras.layers.Layer]]] = {}
    names = {}
    for layer in model.layers:
        names[layer] = layer.name
        if not layer.name.startswith("mixed"):
            family, number = _split_name(layer.name)
            families.setdefault(family, []).append((number, layer))
    for family, members in families.items():
        for rank, (_, layer) in enumerate(sorted(members, key=lambda member: member[0])):
            names[layer] = family if rank == 0 else f"{family}_{rank}"
    return names


def summarise_layers(model: keras.Model, cut: str) -> list[LayerSummary]:
    """Lists the architecture in the model's order."""
    prefix = {id(layer) for layer in cut_backbone(model, cut).layers}
    return [
        LayerSummary(
            name,
            type(layer).__name__,
            tuple(layer.output.shape[1:]),
            int(layer.count_params()),
            id(layer) in prefix,
        )
        for layer, name in name_layers(model).items()
    ]


def _load(model: keras.Model, weights: Weights) -> None:
    if weights.path is None:
        _assign(model, "random", _draw_layers(model), _list_weighted(model))
        return
    kind = WeightsFormat.NSFWJS if weights.name is WeightsName.NSFWJS else weights_file.detect_format(weights.path)
    if kind is WeightsFormat.NSFWJS:
        _assign(model, weights.path, nsfwjs.read_layers(weights.path), _list_in_creation_order(model))
    elif kind is WeightsFormat.LEGACY:
        _assign(model, weights.path, weights_file.read_legacy_layers(weights.path), _list_weighted(model))
    else:
        try:
            with warnings.catch_warnings():
                # Of a file that does not fit, Keras warns once for each layer before it raises.
                warnings.simplefilter("ignore", UserWarning)
                model.load_weights(weights.path)
        except (ValueError, OSError, KeyError) as error:
            raise HeadstartError(
                weights.path,
                "Keras 3 weights of InceptionV3 without the top",
                str(error).splitlines()[0],
                "Give the file that `model.save_weights` wrote for that model",
            ) from error
        for layer, name in name_layers(model).items():
            _refuse_nonfinite(weights.path, name, layer.get_weights())


def _assign(model: keras.Model, where: object, found: NamedLayers, layers: list[keras.layers.Layer]) -> None:
    if len(found) != len(layers):
        raise HeadstartError(
            where, f"{len(layers)} layers with weights", str(len(found)), "Give InceptionV3's no-top weights"
        )
    names = name_layers(model)
    for layer, (name, arrays) in zip(layers, found, strict=True):
        expected = [tuple(weight.shape) for weight in layer.weights]
        got = [array.shape for array in arrays]
        if expected != got:
            raise HeadstartError(
                f"{where}, layer {name!r}",
                f"shapes {expected} for {names[layer]}",
                str(got),
                "Give InceptionV3's no-top weights",
            )
        _refuse_nonfinite(where, name, arrays)
        layer.set_weights(arrays)


def _refuse_nonfinite(where: object, name: str, arrays: list[NDArray[np.float32]]) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise HeadstartError(f"{where}, layer {name!r}", "finite numbers", "NaN or infinity", "Get the file anew")


def _draw_layers(model: keras.Model) -> NamedLayers:
    """Draws weights that keep activations alive: He et al. 2015 (arXiv:1502.01852), and no normalisation."""
    rng = np.random.default_rng(RANDOM_SEED)
    drawn: NamedLayers = []
    for layer in _list_weighted(model):
        shapes = [tuple(weight.shape) for weight in layer.weights]
        if len(shapes) == 1:
            deviation = np.sqrt(2.0 / np.prod(shapes[0][:-1]))
            arrays = [rng.normal(0.0, deviation, shapes[0]).astype(np.float32)]
        else:
            arrays = [
                np.zeros(shapes[0], np.float32),
                np.zeros(shapes[1], np.float32),
                np.ones(shapes[2], np.float32),
            ]
        drawn.append((layer.name, arrays))
    return drawn


def _list_weighted(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if layer.weights]


def _list_in_creation_order(model: keras.Model) -> list[keras.layers.Layer]:
    names = name_layers(model)

    def by_creation(layer: keras.layers.Layer) -> tuple[int, bool]:
        family, number = _split_name(names[layer])
        return number, family != "conv2d"

    return sorted(_list_weighted(model), key=by_creation)


def _split_name(name: str) -> tuple[str, int]:
    match = _NUMBERED.match(name)
    return (match[1], int(match[2] or 0)) if match else (name, 0)


def _no_such_layer(cut: str, names: list[str]) -> UsageError:
    nearest = difflib.get_close_matches(cut, names, n=3) or ["mixed7"]
    return UsageError(
        "--cut",
        f"a layer of {BACKBONE_NAME}",
        repr(cut),
        f"Did you mean {' or '.join(nearest)}? `python -m extract summary` lists them all",
    )
