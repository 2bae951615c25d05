"""Convert a TensorFlow function to an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from base.errors import HeadstartError
from base.terminal import format_bytes
from train_head.data.batches import Array
from train_head.export.outputs import DISTANCE, PROBABILITY

if TYPE_CHECKING:
    import onnx

INPUT = "rgb"
OPSET = 17
"""Version of the operators; ONNX Runtime 1.13 (2022) and later have them."""
MAX_BYTES = 2**31 - 2**24
"""Largest size of the weights: protobuf limits a file to 2 GiB."""
_MIN_LARGE = 4096
"""Number of elements from which an array is left out of the graph during the conversion."""
_AXES = {INPUT: ("batch", "height", "width", ""), PROBABILITY: ("batch", ""), DISTANCE: ("batch", "")}
"""Names of the axes of inputs and outputs; an empty name is an axis of fixed length."""


def convert_function(function: Any) -> onnx.ModelProto:
    """Convert a function, with its batch normalization folded into the convolutions.

    tf2onnx copies all constants of a graph dozens of times: 13 GB of memory for weights of 190 MB. Its input therefore
    has an input for each large array. The arrays become initializers of the ONNX graph afterwards, and ONNX Runtime
    folds what is constant.

    Args:
        function: the function of `Source`.

    Returns:
        A float32 model that uses only standard operators.

    Raises:
        HeadstartError: the weights are too large for an ONNX file.
    """
    import tf2onnx

    concrete = function.get_concrete_function()
    graph, arrays = _separate_arrays(concrete)
    num_bytes = sum(array.nbytes for array in arrays.values())
    if num_bytes > MAX_BYTES:
        expected, advice = "weights of at most 2 GiB, the limit of ONNX", "Export another format, or train fewer units"
        raise HeadstartError("--formats onnx", expected, format_bytes(num_bytes), advice)
    names = {f"{INPUT}:0": INPUT, **{f"{name}:0": name for name in arrays}}
    outputs = {tensor.name: name for name, tensor in concrete.structured_outputs.items()}
    model, _ = tf2onnx.convert.from_graph_def(
        graph,
        input_names=list(names),
        output_names=list(outputs),
        opset=OPSET,
        tensors_to_rename=names | outputs,
    )
    return _fold_constants(_insert_arrays(model, arrays))


def _separate_arrays(concrete: Any) -> tuple[Any, dict[str, Array]]:
    """Return a function's graph without variables, and its large arrays.

    The place of a large array is an input with the array's name in the graph. Small arrays become constants.
    """
    import tensorflow as tf

    graph = concrete.graph.as_graph_def()
    inputs = concrete.inputs[len(concrete.inputs) - len(concrete.captured_inputs) :]
    handles = {place.op.name: handle for place, handle in zip(inputs, concrete.captured_inputs, strict=True)}
    arrays: dict[str, Array] = {}
    for node in graph.node:
        if node.op != "ReadVariableOp":
            continue
        dtype = node.attr["dtype"].type
        array = tf.raw_ops.ReadVariableOp(resource=handles[node.input[0]], dtype=dtype).numpy()
        del node.input[:]
        node.attr.clear()
        node.attr["dtype"].type = dtype
        if array.size < _MIN_LARGE:
            node.op = "Const"
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array))
        else:
            node.op = "Placeholder"
            node.attr["shape"].shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
            arrays[node.name] = array
    # The places of the variables themselves.
    unused = [node for node in graph.node if node.name in handles]
    for node in unused:
        graph.node.remove(node)
    return graph, arrays


def _insert_arrays(model: onnx.ModelProto, arrays: Mapping[str, Array]) -> onnx.ModelProto:
    """Turn the inputs for the arrays into initializers."""
    from onnx import numpy_helper

    graph = model.graph
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    for value in [value for value in graph.input if value.name in arrays]:
        graph.input.remove(value)
    return model


def _fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let ONNX Runtime compute what is constant, and name the axes of inputs and outputs."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # This level keeps to the standard operators.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with TemporaryDirectory() as folder:
        path = Path(folder, "folded.onnx")
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        folded = onnx.load(path)
    used = {node.domain for node in folded.graph.node}
    for opset in [opset for opset in folded.opset_import if opset.domain not in used]:
        folded.opset_import.remove(opset)
    del folded.graph.value_info[:]
    for value in (*folded.graph.input, *folded.graph.output):
        for axis, name in zip(value.type.tensor_type.shape.dim, _AXES[value.name], strict=True):
            if name:
                axis.dim_param = name
    return folded
