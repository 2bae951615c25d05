"""Tells what kind of weights file a file is, and reads its arrays; refuses anything else by name."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from base.errors import HeadstartError
from features.shards.validate import ForeignFileError, open_untrusted_hdf5

MAX_DECLARED_BYTES = 2**30
"""Of all arrays together; InceptionV3 has 88 MB of them."""
NUM_WEIGHTED_LAYERS = 188
"""InceptionV3 without its top: 94 convolutions and 94 batch normalisations."""
_GZIP_SIGNATURE = b"\x1f\x8b"
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_EXPECTED = "InceptionV3 weights without the top: Keras's legacy .h5, or a Keras 3 .weights.h5"
_TODO = f"Give the file named *_notop.h5 ({NUM_WEIGHTED_LAYERS} layers with weights) with --weights (WEIGHTS=)"


class WeightsFormat(StrEnum):
    """The kinds of file that weights can come in."""

    LEGACY = "legacy"
    KERAS3 = "keras3"
    NSFWJS = "nsfwjs"


NamedLayers = list[tuple[str, list[NDArray[np.float32]]]]


def detect_format(path: Path) -> WeightsFormat:
    """Tells the kind of a weights file from its content, without TensorFlow.

    Raises:
        HeadstartError: it is none: a web page, cut off, another model, or something else.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise HeadstartError(path, _EXPECTED, error.strerror or str(error), "Check the path") from error
    if start.startswith(_GZIP_SIGNATURE):
        return WeightsFormat.NSFWJS
    if not start.startswith(_HDF5_SIGNATURE):
        raise HeadstartError(path, _EXPECTED, _describe_start(start), _TODO)
    try:
        with open_untrusted_hdf5(path, MAX_DECLARED_BYTES) as (file, _):
            if "layer_names" in file.attrs:
                _check_layer_count(path, file)
                return WeightsFormat.LEGACY
            if "layers" in file:
                if not path.name.endswith(".weights.h5"):
                    raise HeadstartError(
                        path,
                        "a name ending in .weights.h5",
                        "Keras 3 weights under another",
                        "Rename the file",
                    )
                return WeightsFormat.KERAS3
            found = ", ".join(sorted(file)[:4]) or "nothing"
    except ForeignFileError as error:
        raise HeadstartError(path, _EXPECTED, f"an HDF5 file in which {error}", _TODO) from error
    except (OSError, LookupError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        size = path.stat().st_size
        raise HeadstartError(
            path, _EXPECTED, f"an HDF5 file of {size:,} bytes that is cut off or damaged ({error})", _TODO
        ) from error
    raise HeadstartError(path, _EXPECTED, f"an HDF5 file with {found} in it", _TODO)


def read_legacy_layers(path: Path) -> NamedLayers:
    """Reads the layers of a legacy Keras weights file in the file's order.

    Source: Keras's `legacy_h5_format`: the root's attribute `layer_names` lists groups, each group's
    attribute `weight_names` its arrays.

    Returns:
        (layer name, its arrays as float32) for each layer that has any.

    Raises:
        HeadstartError: the file is damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            layers = []
            for name in _list_names(file.attrs["layer_names"]):
                group = file[name]
                arrays = [
                    np.asarray(group[weight][()], np.float32) for weight in _list_names(group.attrs["weight_names"])
                ]
                if arrays:
                    layers.append((name, arrays))
            return layers
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise HeadstartError(path, _EXPECTED, f"a damaged file ({error})", _TODO) from error


def _check_layer_count(path: Path, file: h5py.File) -> None:
    names = _list_names(file.attrs["layer_names"])
    num_layers = sum(name in file and len(file[name].attrs.get("weight_names", ())) > 0 for name in names)
    if num_layers != NUM_WEIGHTED_LAYERS:
        hint = " (it has a top)" if num_layers == NUM_WEIGHTED_LAYERS + 1 else ""
        raise HeadstartError(path, _EXPECTED, f"a legacy file of {num_layers} layers with weights{hint}", _TODO)


def _list_names(attribute: object) -> list[str]:
    return [name.decode() if isinstance(name, bytes) else str(name) for name in np.asarray(attribute).tolist()]


def _describe_start(start: bytes) -> str:
    text = start.lstrip().lower()
    if not start:
        return "an empty file"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page (an error page saved under the file's name?)"
    if start.startswith(b"PK"):
        return "a zip file (a whole .keras model?)"
    return f"a file that starts with {start[:8]!r}"
