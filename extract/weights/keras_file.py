"""Check weights files before Keras reads them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from base.errors import HeadstartError
from base.terminal import format_count
from features.shards.validate import ForeignFileError, open_untrusted_hdf5

MAX_DECLARED_BYTES = 2**30
"""Largest accepted size of all arrays together, in bytes; those of InceptionV3 take 88 MB."""
NUM_WEIGHTED_LAYERS = 188
"""Number of layers with weights in InceptionV3 without its top: 94 convolutions and 94 batch normalizations."""
_EXPECTED = "InceptionV3 weights without the top layers, as a legacy Keras .h5 or a Keras 3 .weights.h5 file"
_ADVICE = f"Give a *_notop.h5 file ({NUM_WEIGHTED_LAYERS} layers with weights) with --weights"
_OTHER_KINDS = {
    (b"<!doctype", b"<html", b"<?xml", b"<head"): "a web page, possibly an error page of a download",
    (b"pk",): "a zip file, possibly a .keras model",
}


def check_weights_file(path: Path) -> bool:
    """Check the content of a weights file, without TensorFlow.

    Returns:
        True for the npm package `nsfwjs`, False for an HDF5 file of Keras.

    Raises:
        HeadstartError: the file is something else, such as a web page, another model or a truncated file.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise HeadstartError(path, _EXPECTED, error.strerror or str(error), "Check the path") from error
    if start.startswith(b"\x1f\x8b"):
        return True
    if not start.startswith(b"\x89HDF\r\n\x1a\n"):
        text = start.lstrip().lower()
        kinds = [kind for signatures, kind in _OTHER_KINDS.items() if text.startswith(signatures)]
        got = kinds[0] if kinds else f"a file that starts with {start[:8]!r}" if start else "an empty file"
        raise HeadstartError(path, _EXPECTED, got, _ADVICE)
    try:
        with open_untrusted_hdf5(path, MAX_DECLARED_BYTES) as (file, _):
            if "layer_names" in file.attrs:
                kind, got, suffix = "legacy", _find_other_layers(file), ".h5"
            else:
                other = f"an HDF5 file with {', '.join(sorted(file)[:4]) or 'no content'}"
                kind, got, suffix = "Keras 3", "" if "layers" in file else other, ".weights.h5"
    except ForeignFileError as error:
        raise HeadstartError(path, _EXPECTED, f"an invalid HDF5 file ({error})", _ADVICE) from error
    except (OSError, LookupError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        got = f"a truncated or damaged HDF5 file of {path.stat().st_size:,} bytes ({error})"
        raise HeadstartError(path, _EXPECTED, got, _ADVICE) from error
    if got:
        raise HeadstartError(path, _EXPECTED, got, _ADVICE)
    if not path.name.endswith(suffix) or (suffix == ".h5" and path.name.endswith(".weights.h5")):
        # Keras chooses the format by the file name.
        raise HeadstartError(
            path, f"a name ending in {suffix}", f"{kind} weights under another name", "Rename the file"
        )
    return False


def _find_other_layers(file: h5py.File) -> str:
    """Describe a legacy file whose number of layers with weights is wrong; return an empty string if it is right."""
    names = np.asarray(file.attrs["layer_names"]).astype(str).tolist()
    num_layers = sum(name in file and len(file[name].attrs.get("weight_names", ())) > 0 for name in names)
    if num_layers == NUM_WEIGHTED_LAYERS:
        return ""
    hint = ", possibly with the top layers" if num_layers == NUM_WEIGHTED_LAYERS + 1 else ""
    return f"a legacy file of {format_count(num_layers, 'layer')} with weights{hint}"
