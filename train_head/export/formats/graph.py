"""Graph of a TensorFlow function without its large arrays, for converters that would copy them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from train_head.data.batches import Array

INPUT = "rgb"
_MIN_LARGE = 4096
"""Number of elements from which an array is left out of the graph."""


@dataclass(frozen=True)
class SeparateGraph:
    """Graph without variables, and the large arrays of its function."""

    graph: Any
    """`GraphDef` with an input for each large array. Small arrays are constants."""
    arrays: dict[str, Array]
    """Large arrays, by the name of their input."""
    outputs: dict[str, str]
    """Names of the function's outputs, by the name of the tensor in the graph."""


def separate_arrays(function: Any) -> SeparateGraph:
    """Separate a function's large arrays from its graph.

    Args:
        function: the function of `Source`.
    """
    import tensorflow as tf

    concrete = function.get_concrete_function()
    graph = concrete.graph.as_graph_def()
    places = concrete.inputs[len(concrete.inputs) - len(concrete.captured_inputs) :]
    handles = {place.op.name: handle for place, handle in zip(places, concrete.captured_inputs, strict=True)}
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
    for node in [node for node in graph.node if node.name in handles]:
        graph.node.remove(node)
    return SeparateGraph(graph, arrays, {tensor.name: name for name, tensor in concrete.structured_outputs.items()})
