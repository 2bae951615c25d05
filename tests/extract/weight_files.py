"""Write weights files: the legacy layout of Keras, and the npm package."""

from __future__ import annotations

import base64
import gzip
import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

_KERNELS = """
3,3,3,32 3,3,32,32 3,3,32,64 1,1,64,80 3,3,80,192 1,1,192,64 1,1,192,48 5,5,48,64 1,1,192,64 3,3,64,96
3,3,96,96 1,1,192,32 1,1,256,64 1,1,256,48 5,5,48,64 1,1,256,64 3,3,64,96 3,3,96,96 1,1,256,64 1,1,288,64
1,1,288,48 5,5,48,64 1,1,288,64 3,3,64,96 3,3,96,96 1,1,288,64 3,3,288,384 1,1,288,64 3,3,64,96 3,3,96,96
1,1,768,192 1,1,768,128 1,7,128,128 7,1,128,192 1,1,768,128 7,1,128,128 1,7,128,128 7,1,128,128
1,7,128,192 1,1,768,192 1,1,768,192 1,1,768,160 1,7,160,160 7,1,160,192 1,1,768,160 7,1,160,160
1,7,160,160 7,1,160,160 1,7,160,192 1,1,768,192 1,1,768,192 1,1,768,160 1,7,160,160 7,1,160,192
1,1,768,160 7,1,160,160 1,7,160,160 7,1,160,160 1,7,160,192 1,1,768,192 1,1,768,192 1,1,768,192
1,7,192,192 7,1,192,192 1,1,768,192 7,1,192,192 1,7,192,192 7,1,192,192 1,7,192,192 1,1,768,192
1,1,768,192 3,3,192,320 1,1,768,192 1,7,192,192 7,1,192,192 3,3,192,192 1,1,1280,320 1,1,1280,384
1,3,384,384 3,1,384,384 1,1,1280,448 3,3,448,384 1,3,384,384 3,1,384,384 1,1,1280,192 1,1,2048,320
1,1,2048,384 1,3,384,384 3,1,384,384 1,1,2048,448 3,3,448,384 1,3,384,384 3,1,384,384 1,1,2048,192
"""
KERNEL_SHAPES = [tuple(int(number) for number in shape.split(",")) for shape in _KERNELS.split()]
"""Shapes of the kernels conv2d_1 to conv2d_94 in the manifest of the npm package."""

Layers = Sequence[tuple[str, Sequence[NDArray[np.float32]]]]


def write_legacy_file(path: Path, layers: Layers) -> Path:
    """Write a weights file in the legacy layout of Keras."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name, _ in layers]
        for name, arrays in layers:
            group = file.create_group(name)
            weights = [f"{name}/weight_{number}:0" for number in range(len(arrays))]
            group.attrs["weight_names"] = [weight.encode() for weight in weights]
            for weight, array in zip(weights, arrays, strict=True):
                group[weight] = array
    return path


def draw_small_layers(number: int) -> list[tuple[str, list[NDArray[np.float32]]]]:
    """Draw layers of six numbers each, for tests of the layout."""
    rng = np.random.default_rng(number)
    return [(f"layer_{index}", [rng.normal(size=(2, 3)).astype(np.float32)]) for index in range(number)]


@dataclass(frozen=True)
class Tensor:
    """Tensor in the package: value = quantised * scale + minimum; scale and minimum as JavaScript text."""

    quantised: NDArray[np.uint8]
    minimum: str = "-1.5"
    scale: str = ".25"


def write_package(path: Path, tensors: Mapping[str, Tensor], *, drop_bytes: int = 0) -> Path:
    """Write a package in the layout of the npm package; `drop_bytes` shortens the last shard."""
    weights = ",".join(
        f'{{name:"{name}",shape:[{",".join(map(str, tensor.quantised.shape))}],dtype:"float32",'
        f'quantization:{{min:{tensor.minimum},scale:{tensor.scale},dtype:"uint8"}}}}'
        for name, tensor in tensors.items()
    )
    model = (
        '!function(d){"object"==typeof exports&&(module.exports=d())}({1:[function(d,h,Z){h.exports='
        '{modelTopology:{class_name:"Model",config:{name:"inception_v3",layers:[{name:"input_1"}]}},'
        f'weightsManifest:[{{paths:["group1-shard1of6"],weights:[{weights}]}}]}}}},{{}}]}},{{}},[1])(1)}});'
    )
    data = b"".join(tensor.quantised.tobytes() for tensor in tensors.values())
    data = data[: len(data) - drop_bytes]
    # As in the npm package: five shards of equal size, whose strings need no padding, and a shorter one.
    size = -(-len(data) // 17) * 3
    files = {"model.min.js": model}
    for part in range(6):
        text = base64.b64encode(data[part * size : (part + 1) * size]).decode()
        files[f"group1-shard{part + 1}of6.min.js"] = (
            '!function(V){var U=new Error("Cannot find module \'"+V+"\'");'
            f'({{1:[function(V,W,l){{W.exports="{text}"}},{{}}]}},{{}},[1])(1)}});'
        )
    with gzip.open(path, "wb", compresslevel=1) as packed, tarfile.open(fileobj=packed, mode="w") as package:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/dist/models/inception_v3/{name}")
            member.size = len(content)
            package.addfile(member, io.BytesIO(content.encode()))
    return path


def draw_tensors(kernel_shapes: Sequence[tuple[int, ...]]) -> dict[str, Tensor]:
    """Draw the tensors of a package in the order of the npm package: normalisations, convolutions, top layers."""
    rng = np.random.default_rng(94)

    def draw(*shape: int) -> NDArray[np.uint8]:
        return rng.integers(0, 256, shape, dtype=np.uint8)

    numbers = sorted(range(1, len(kernel_shapes) + 1), key=str)
    tensors: dict[str, Tensor] = {}
    for number in numbers:
        width = kernel_shapes[number - 1][-1]
        tensors |= {
            f"batch_normalization_{number}/beta": Tensor(draw(width), f"-{number}.5", ".125"),
            f"batch_normalization_{number}/moving_mean": Tensor(draw(width), "-.25", f"{number}e-4"),
            f"batch_normalization_{number}/moving_variance": Tensor(draw(width), ".0625", "2.5e-3"),
        }
    for number in numbers:
        shape = kernel_shapes[number - 1]
        tensors[f"conv2d_{number}/kernel"] = Tensor(draw(*shape), "-.03125", f".000{number:02}")
    return tensors | {
        "dense_1/kernel": Tensor(draw(4, 256)),
        "dense_1/bias": Tensor(draw(256), "-2", "1"),
    }
