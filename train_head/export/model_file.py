"""Looks at a `model.keras` from elsewhere before Keras does: nothing but what an export writes gets through.

Keras builds what a file's `config.json` names. Its safe mode refuses most of what could run code; several advisories
were ways round it. Here only the layers of an export are let through, with the weights that are stored for them.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import h5py

from base.errors import HeadstartError
from extract.pixels import FACTOR, OFFSET, RESIZE
from features.shards.validate import validate_untrusted_hdf5
from train_head.export.card import CARD_NAME, ModelCard, compute_digest

CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.weights.h5"
FILES = frozenset([CARD_NAME, CONFIG_NAME, WEIGHTS_NAME, "metadata.json"])
MAX_MODEL_BYTES = 2**32
MAX_TEXT_BYTES = 2**24
MAX_LAYERS = 2000
MAX_LAYER_OVERHEAD = 2**16
"""Bytes that HDF5 adds to a layer's weights."""
_POOLING = "trainable pool_size strides padding data_format"
_CONVOLUTION = "trainable filters kernel_size strides padding data_format dilation_rate groups activity_regularizer"
_KERNEL = "activation use_bias kernel_initializer bias_initializer kernel_regularizer bias_regularizer "
_KERNEL += "kernel_constraint bias_constraint"
_NORMALISATION = "trainable axis momentum epsilon center scale beta_initializer gamma_initializer "
_NORMALISATION += "moving_mean_initializer moving_variance_initializer beta_regularizer gamma_regularizer "
_NORMALISATION += "beta_constraint gamma_constraint synchronized renorm renorm_clipping renorm_momentum"
_RESIZING = "trainable height width interpolation crop_to_aspect_ratio pad_to_aspect_ratio antialias fill_mode "
_RESIZING += "fill_value data_format"
_LAYERS = {
    "InputLayer": "batch_shape sparse ragged optional",
    "Resizing": _RESIZING,
    "Rescaling": "trainable scale offset",
    "Conv2D": f"{_CONVOLUTION} {_KERNEL}",
    "BatchNormalization": _NORMALISATION,
    "Activation": "trainable activation",
    "MaxPooling2D": _POOLING,
    "AveragePooling2D": _POOLING,
    "GlobalAveragePooling2D": "trainable data_format keepdims",
    "Concatenate": "trainable axis",
    "Flatten": "trainable data_format",
    "Dense": f"trainable units quantization_config {_KERNEL}",
    "Dropout": "trainable rate seed noise_shape",
}
OBJECTS = {("keras.layers", layer): {"name", "dtype", *names.split()} for layer, names in _LAYERS.items()} | {
    ("keras.initializers", "GlorotUniform"): {"seed", "input_axes", "output_axes"},
    ("keras.initializers", "Zeros"): set(),
    ("keras.initializers", "Ones"): set(),
    ("keras.regularizers", "L2"): {"l2"},
    ("keras.src.models.functional", "Functional"): {"name", "trainable", "layers", "input_layers", "output_layers"},
    ("keras", "Sequential"): {"name", "trainable", "dtype", "layers", "build_input_shape"},
    ("keras", "DTypePolicy"): {"name"},
    (None, "__keras_tensor__"): {"shape", "dtype", "keras_history"},
}
"""(module, class name) of everything that an export's configuration names, and the options that each has."""
_ONLY_VALUES: dict[str, tuple[object, ...]] = {
    "data_format": ("channels_last",),
    "axis": (3,),
    "groups": (1,),
    "quantization_config": (None,),
    "renorm": (False,),
}
"""Options of which an export has these values alone; others make layers hold more than is counted here."""
_PIXEL_LAYERS: dict[str, dict[str, object]] = {
    "Resizing": {
        "interpolation": RESIZE,
        "crop_to_aspect_ratio": False,
        "pad_to_aspect_ratio": False,
        "antialias": False,
        "fill_mode": "constant",
        "fill_value": 0.0,
        "data_format": "channels_last",
    },
    "Rescaling": {"scale": FACTOR, "offset": OFFSET},
}
"""Layers that an export has once, and their options, as `extract/pixels.py` builds them."""
ACTIVATIONS = frozenset(["linear", "relu", "sigmoid", "softmax"])


def read_card(path: Path) -> ModelCard:
    """Read an exported model's card, without TensorFlow.

    Raises:
        HeadstartError: there is no such file, or it is no exported model.
    """
    with _open_file(path) as file:
        try:
            return _read_card(file)
        except Exception as error:
            raise _refuse(path, error) from error


def check_model(path: Path) -> ModelCard:
    """Check a whole model, and return its card.

    Raises:
        HeadstartError: it is no exported model, or holds what none does.
    """
    with open_model(path) as (card, _):
        return card


@contextmanager
def open_model(path: Path) -> Iterator[tuple[ModelCard, BinaryIO]]:
    """Open a model file once, and yield its card and a private copy of its bytes: those that were checked.

    Raises:
        HeadstartError: it is no exported model, or holds what none does.
    """
    with _open_file(path) as file, tempfile.TemporaryFile() as copy:
        try:
            _read_card(file)
            file.seek(0)
            # By another name, or with something else in front, Keras would read another file than this.
            if path.suffix != ".keras" or file.read(4) != b"PK\x03\x04":
                raise ValueError("a zip file that is not called .keras, or begins with something else")
            file.seek(0)
        except Exception as error:
            raise _refuse(path, error) from error
        try:
            shutil.copyfileobj(file, copy, 2**20)
            copy.flush()
        except OSError as error:
            where, room = tempfile.gettempdir(), f"room for a copy of {path}"
            raise HeadstartError(where, room, error.strerror or str(error), "Make room, or set TMPDIR") from error
        try:
            card = _check_copy(copy)
        except Exception as error:
            raise _refuse(path, error) from error
        yield card, copy


@contextmanager
def _open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file of a model's size at most; a pipe or a device is neither waited for nor read."""
    advice = "Give the model.keras that `make export` made"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        advice = "Run `make export DATA=folder` (`python -m train_head.export`) first, or check the path"
        raise HeadstartError(path, "an exported model", "no such file", advice) from None
    except OSError as error:
        raise HeadstartError(path, "an exported model", error.strerror or str(error), advice) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_MODEL_BYTES:
        os.close(descriptor)
        got = "a file that is not a regular one"
        if stat.S_ISDIR(status.st_mode):
            got = "a folder"
        elif stat.S_ISREG(status.st_mode):
            got = f"{status.st_size:,} bytes, more than the {MAX_MODEL_BYTES:,} that are allowed"
        raise HeadstartError(path, "an exported model", got, advice)
    with os.fdopen(descriptor, "rb") as file:
        yield file


def _refuse(path: Path, error: Exception) -> HeadstartError:
    # A damaged file fails in zipfile, in json, or in HDF5, each with errors of its own.
    reason = str(error) or type(error).__name__
    return HeadstartError(
        path, "a model.keras that `train_head.export` made", f"another file ({reason})", "Check the path"
    )


def _check_members(archive: zipfile.ZipFile, num_bytes: int) -> None:
    members = archive.infolist()
    names = [member.filename for member in members]
    if missing := sorted(FILES - set(names)):
        raise ValueError(f"a zip file without {missing[0]}")
    if len(names) > len(FILES):
        raise ValueError(f"a zip file of {', '.join(map(repr, names[:5]))}")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ValueError(f"{member.filename} is compressed")
        if member.filename != WEIGHTS_NAME and member.file_size > MAX_TEXT_BYTES:
            raise ValueError(f"{member.filename} has {member.file_size:,} bytes")
    if sum(member.file_size for member in members) > num_bytes:
        raise ValueError("files that overlap")


def _read_card(file: BinaryIO) -> ModelCard:
    with zipfile.ZipFile(file) as archive:
        _check_members(archive, os.fstat(file.fileno()).st_size)
        card = ModelCard(**json.loads(archive.read(CARD_NAME)))
    card.check()
    return card


def _check_copy(file: BinaryIO) -> ModelCard:
    card = _read_card(file)
    with zipfile.ZipFile(file) as archive:
        _check_config(json.loads(archive.read(CONFIG_NAME)), card.image_size, archive.getinfo(WEIGHTS_NAME).file_size)
        members = {name: archive.read(name) for name in FILES - {CARD_NAME}}
    weights = members[WEIGHTS_NAME]
    with h5py.File(io.BytesIO(weights)) as content:
        validate_untrusted_hdf5(content, weights, len(weights))
    # Older exports have neither.
    if (card.digest or card.weights_sha256) and card.digest != compute_digest(card, members):
        raise ValueError("edited after it was exported: its digest is another")
    return card


def _check_config(config: Any, image_size: int, num_bytes: int) -> None:
    """Checks that a configuration names nothing but an export's parts, and no more weights than are stored."""
    num_layers, declared = 0, 0
    parts = [part for part in _walk(config) if "class_name" in part]
    for part in parts:
        kind = part["class_name"]
        if (part.get("module"), kind) not in OBJECTS or part.get("registered_name") not in (None, kind):
            raise ValueError(f"a part {part.get('module')}.{kind}, which no export has")
    for part in parts:
        kind, options = part["class_name"], part.get("config")
        if not isinstance(options, dict):
            raise ValueError(f"a part {kind} without options")
        _check_options(kind, options, OBJECTS[part.get("module"), kind])
        if kind in _LAYERS:
            num_layers += 1
            declared += 4 * _count_weights(kind, options, part.get("build_config"))
        if kind == "Resizing" and not options.get("height") == options.get("width") == image_size:
            raise ValueError(f"pictures of another size than {image_size} px")
    for kind in _PIXEL_LAYERS:
        if (num_found := sum(part["class_name"] == kind for part in parts)) != 1:
            raise ValueError(f"{num_found} layers {kind}")
    # A layer's largest array is counted; the others are up to three of its size.
    if num_layers > MAX_LAYERS or not declared <= num_bytes <= 4 * declared + num_layers * MAX_LAYER_OVERHEAD:
        raise ValueError(f"{num_layers:,} layers with {declared:,} bytes of weights, and {num_bytes:,} are stored")


def _check_options(kind: str, options: dict[str, Any], known: Collection[str]) -> None:
    if strange := sorted(set(options) - set(known)):
        raise ValueError(f"a {kind} with {strange[0]!r}, which no export has")
    for name, values in _ONLY_VALUES.items():
        if name in options and options[name] not in values:
            raise ValueError(f"a {kind} with {name} {options[name]!r}")
    for name, value in _PIXEL_LAYERS.get(kind, {}).items():
        if options.get(name) != value:
            raise ValueError(f"a {kind} with {name} {options.get(name)!r}")
    if kind == "Dropout" and not 0 <= options["rate"] < 1:
        raise ValueError(f"a Dropout with rate {options['rate']!r}")
    activation, dtype = options.get("activation", "linear"), options.get("dtype", "float32")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(f"an activation {activation!r}")
    if (isinstance(dtype, str) and dtype != "float32") or (kind == "DTypePolicy" and options != {"name": "float32"}):
        raise ValueError(f"a {kind} of {options}")


def _count_weights(kind: str, options: dict[str, Any], build: Any) -> int:
    """Counts the numbers in a layer's largest array, which it makes before anything is read."""
    if kind not in ("Conv2D", "Dense", "BatchNormalization"):
        return 0
    shape = build["input_shape"]
    if len(shape) != (2 if kind == "Dense" else 4):
        raise ValueError(f"a {kind} on {shape}")
    sizes = [shape[-1]]
    if kind == "Dense":
        sizes.append(options["units"])
    elif kind == "Conv2D":
        sizes += [options["filters"], *options["kernel_size"]]
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"a {kind} of {sizes}")
    return prod(sizes)


def _walk(value: Any) -> Iterator[dict[str, Any]]:
    """Walks every object of a JSON value."""
    pending = [value]
    while pending:
        found = pending.pop()
        if isinstance(found, dict):
            yield found
            pending.extend(found.values())
        elif isinstance(found, list):
            pending.extend(found)
