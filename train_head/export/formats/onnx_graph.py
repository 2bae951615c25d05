"""Convert a TensorFlow function to an ONNX graph."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from base.errors import HeadstartError
from base.terminal import format_bytes
from train_head.data.batches import Array
from train_head.export.formats.graph import INPUT, separate_arrays
from train_head.export.outputs import DISTANCE, PROBABILITY

if TYPE_CHECKING:
    import onnx

OPSET = 17
"""Version of the operators; ONNX Runtime 1.13 (2022) and later have them."""
MAX_BYTES = 2**31 - 2**24
"""Largest size of the weights: protobuf limits a file to 2 GiB."""
_AXES = {INPUT: ("batch", "height", "width", ""), PROBABILITY: ("batch", ""), DISTANCE: ("batch", "")}
"""Names of the axes of inputs and outputs; an empty name is an axis of fixed length."""


def import_onnxruntime() -> Any:
    """Import and return ONNX Runtime, without its telemetry."""
    # Its function for this comes too late: the import already creates an identifier and an event.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return onnxruntime


def convert_function(function: Any) -> onnx.ModelProto:
    """Convert a function, with its batch normalization folded into the convolutions.

    tf2onnx copies all constants of a graph dozens of times: 13 GB of memory for weights of 190 MB. It therefore
    converts a graph with an input for each large array. The arrays become initializers of the ONNX graph afterwards,
    and ONNX Runtime folds constant parts of it.

    Args:
        function: the function of `Source`.

    Returns:
        A float32 model that uses only standard operators.

    Raises:
        HeadstartError: the weights are too large for an ONNX file.
    """
    import tf2onnx

    source = separate_arrays(function)
    num_bytes = sum(array.nbytes for array in source.arrays.values())
    if num_bytes > MAX_BYTES:
        expected, advice = "weights of at most 2 GiB, the limit of ONNX", "Export it with `factored`, or another format"
        raise HeadstartError("--formats onnx", expected, format_bytes(num_bytes), advice)
    names = {f"{INPUT}:0": INPUT, **{f"{name}:0": name for name in source.arrays}}
    model, _ = tf2onnx.convert.from_graph_def(
        source.graph,
        input_names=list(names),
        output_names=list(source.outputs),
        opset=OPSET,
        tensors_to_rename=names | source.outputs,
    )
    return _fold_constants(_insert_arrays(model, source.arrays))


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

    onnxruntime = import_onnxruntime()
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
