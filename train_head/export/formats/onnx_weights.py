"""Store the weights of an ONNX model as float16 or int8."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from train_head.data.batches import Array
from train_head.export.config import Dtype
from train_head.export.formats.weights import choose_storage, quantize_blocks, quantize_columns
from train_head.export.outputs import PROBABILITY

if TYPE_CHECKING:
    import onnx

_MAX_INPUTS = (2**31 - 1) // 127**2
"""Largest number of inputs of a dense layer whose sums of products cannot exceed 32 bits."""
_PLAIN = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
"""Attributes of a Gemm that is a matrix product and a bias."""
_FLOAT, _UINT8 = 1, 2
"""Numbers of the types in ONNX."""
_INTEGER_DENSE: tuple[tuple[str, tuple[str, ...], str, Mapping[str, Any]], ...] = (
    ("Abs", ("inputs",), "magnitudes", {}),
    ("ReduceMax", ("magnitudes",), "largest", {"axes": [-1], "keepdims": 1}),
    ("Mul", ("largest", "1/127"), "found_step", {}),
    ("Max", ("found_step", "smallest"), "step", {}),
    ("Div", ("inputs", "step"), "quotients", {}),
    ("Round", ("quotients",), "rounded", {}),
    ("Add", ("rounded", "128"), "shifted", {}),
    ("Cast", ("shifted",), "bytes", {"to": _UINT8}),
    ("MatMulInteger", ("bytes", "uint8", "zero", "zero"), "sums", {}),
    ("Cast", ("sums",), "real_sums", {"to": _FLOAT}),
    ("Mul", ("step", "scale"), "scales", {}),
    ("Mul", ("real_sums", "scales"), "products", {}),
    ("Add", ("products", "bias"), "outputs", {}),
)
"""Operators of a dense layer on integers: name, inputs, output, attributes.

The inputs are rounded to 8 bits with one step for each picture, so that a picture does not depend on the others of its
batch. The integers are uint8 with zero at 128: with int8, the instructions of older processors saturate.
"""


def store_weights(model: onnx.ModelProto, dtype: Dtype) -> None:
    """Replace the float32 kernels of a model by kernels of a smaller number format; inputs and outputs stay float32.

    float16 kernels, and the int8 kernels of convolutions, are followed by Cast, Mul and Reshape, which a runtime
    computes once, when it loads the model. DequantizeLinear would be computed for each picture. Large dense layers are
    computed on integers, because reading their kernels takes most of their time and memory.
    """
    from onnx import numpy_helper

    graph = model.graph
    initializers = {initializer.name: initializer for initializer in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    serving = _find_serving(graph)
    first: list[onnx.NodeProto] = []
    nodes: list[onnx.NodeProto] = []
    replaced: set[str] = set()
    for node in graph.node:
        kernel = initializers.get(node.input[1]) if _is_weighted(node) else None
        array = numpy_helper.to_array(kernel) if kernel and uses[kernel.name] == 1 else np.empty(0, np.float32)
        storage = choose_storage(array, dtype, is_distance=node.output[0] not in serving)
        if kernel is None or storage is Dtype.FLOAT32:
            nodes.append(node)
            continue
        replaced.add(kernel.name)
        if storage is Dtype.INT8 and node.op_type != "Conv" and len(array) <= _MAX_INPUTS:
            nodes += _store_integer_dense(graph, node, array)
            continue
        nodes.append(node)
        if storage is Dtype.FLOAT16:
            first += _store_half(graph, node.input[1], array)
        else:
            first += _store_blocks(graph, node.input[1], array)
    kept = [initializer for initializer in graph.initializer if initializer.name not in replaced]
    del graph.node[:], graph.initializer[:]
    graph.node.extend((*first, *nodes))
    graph.initializer.extend(kept)


def _is_weighted(node: onnx.NodeProto) -> bool:
    """Return whether a node is a convolution or a dense layer."""
    from onnx import helper

    if node.op_type == "Gemm":
        return all(helper.get_attribute_value(each) == _PLAIN[each.name] for each in node.attribute)
    return node.op_type in ("Conv", "MatMul")


def _find_serving(graph: onnx.GraphProto) -> set[str]:
    """Return the tensors that the probabilities depend on."""
    found = {PROBABILITY}
    for node in reversed(graph.node):
        if found.intersection(node.output):
            found.update(node.input)
    return found


def _store_half(graph: onnx.GraphProto, name: str, kernel: Array) -> list[onnx.NodeProto]:
    return [_make_node("Cast", [_store(graph, f"{name}/float16", kernel.astype(np.float16))], name, to=_FLOAT)]


def _store_blocks(graph: onnx.GraphProto, name: str, kernel: Array) -> list[onnx.NodeProto]:
    integers, scale = quantize_blocks(kernel)
    inputs = [_store(graph, f"{name}/{kind}", array) for kind, array in (("int8", integers), ("scale", scale))]
    shape = _store(graph, f"{name}/shape", np.asarray(kernel.shape, np.int64))
    return [
        *(_make_node("Cast", [each], f"{each}/real", to=_FLOAT) for each in inputs),
        _make_node("Mul", [f"{each}/real" for each in inputs], f"{name}/blocks"),
        _make_node("Reshape", [f"{name}/blocks", shape], name),
    ]


def _store_integer_dense(graph: onnx.GraphProto, node: onnx.NodeProto, kernel: Array) -> list[onnx.NodeProto]:
    """Store the kernel, (inputs, outputs), of a dense layer, and return the nodes of `_INTEGER_DENSE`."""
    name, has_bias = node.input[1], len(node.input) > 2
    integers, scale = quantize_columns(kernel)
    names: dict[str, str] = {
        "inputs": node.input[0],
        "outputs" if has_bias else "products": node.output[0],
        "bias": node.input[2] if has_bias else "",
        "1/127": _store(graph, f"{name}/127th", np.float32(1 / 127)),
        "smallest": _store(graph, f"{name}/smallest", np.finfo(np.float32).tiny),
        "128": _store(graph, f"{name}/128", np.float32(128)),
        "zero": _store(graph, f"{name}/zero", np.uint8(128)),
        "uint8": _store(graph, f"{name}/uint8", (integers.astype(np.int16) + 128).astype(np.uint8)),
        "scale": _store(graph, f"{name}/scale", scale),
    }

    def rename(local: str) -> str:
        return names.get(local, f"{name}/{local}")

    operators = _INTEGER_DENSE if has_bias else _INTEGER_DENSE[:-1]
    return [_make_node(kind, map(rename, ins), rename(out), **more) for kind, ins, out, more in operators]


def _store(graph: onnx.GraphProto, name: str, array: ArrayLike) -> str:
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return name


def _make_node(kind: str, inputs: Iterable[str], output: str, **attributes: Any) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node(kind, list(inputs), [output], **attributes)
