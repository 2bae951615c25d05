"""OpenVINO format: `model.xml` and `model.bin`, for processors, graphics units and accelerators by Intel."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from base.errors import HeadstartError
from extract.engines.openvino import import_openvino, read_graph
from train_head.data.batches import Array
from train_head.export.config import Dtype
from train_head.export.formats import Source
from train_head.export.formats.graph import INPUT, SeparateGraph, separate_arrays
from train_head.export.formats.weights import choose_storage, quantize_blocks, quantize_columns
from train_head.export.outputs import DISTANCE, PROBABILITY, Outputs
from train_head.runs.card import format_labels

XML_FILE = "model.xml"
INFO, LABELS_KEY, DESCRIPTION_KEY = "headstart", "labels", "description"
"""Section of the information in the file, with the class names as a JSON list, and the content of model.json."""
API_INFO = "model_info"
"""Section that OpenVINO's Model API reads; its `labels` are separated by spaces."""


def convert(source: Source, folder: Path) -> None:
    """Write model.xml and model.bin."""
    openvino = import_openvino()
    model = _read_function(separate_arrays(source.function))
    if source.dtype is not Dtype.FLOAT32:
        _store_weights(model, source.dtype)
    model.set_rt_info(source.encode_description(), [INFO, DESCRIPTION_KEY])
    model.set_rt_info(json.dumps(source.card.classes), [INFO, LABELS_KEY])
    labels = format_labels(source.card.classes).decode().splitlines()
    model.set_rt_info(" ".join("_".join(label.split()) for label in labels), [API_INFO, LABELS_KEY])
    openvino.save_model(model, folder / XML_FILE, compress_to_fp16=False)


def _read_function(source: SeparateGraph) -> Any:
    """Convert a function to an `openvino.Model` with named inputs and outputs."""
    from openvino import Core
    from openvino import opset13 as ops
    from openvino.passes import ConstantFolding, Manager

    model = read_graph(Core(), source.graph)
    for parameter in model.get_parameters():
        name = parameter.get_friendly_name().removesuffix(":0")
        if name in source.arrays:
            constant = ops.constant(source.arrays[name], shared_memory=True, name=name)
            parameter.output(0).replace(constant.output(0))
            model.remove_parameter(parameter)
    model.input().get_tensor().set_names({INPUT})
    for result in model.get_results():
        names = {source.outputs[name] for name in source.outputs.keys() & result.output(0).get_names()}
        if names:
            result.output(0).get_tensor().set_names(names)
        else:
            # A tensor of the graph that nothing uses.
            model.remove_result(result)
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(model)
    return model


def _store_weights(model: Any, dtype: Dtype) -> None:
    """Replace the float32 kernels of a model by kernels of a smaller number format; inputs and outputs stay float32."""
    from openvino import Type
    from openvino import opset13 as ops

    serving = _find_serving(model)
    for node in model.get_ordered_ops():
        if node.get_type_name() not in ("Convolution", "MatMul"):
            continue
        place = node.input(1)
        constant = place.get_source_output().get_node()
        if constant.get_type_name() != "Constant" or len(constant.output(0).get_target_inputs()) > 1:
            continue
        kernel = constant.get_data()
        storage = choose_storage(kernel, dtype, is_distance=node.get_friendly_name() not in serving)
        if storage is Dtype.FLOAT32:
            continue
        if storage is Dtype.FLOAT16:
            restored = ops.convert(ops.constant(kernel.astype(np.float16)), Type.f32)
        else:
            is_dense = node.get_type_name() == "MatMul"
            integers, scale = quantize_columns(kernel) if is_dense else quantize_blocks(kernel)
            scales = ops.convert(ops.constant(scale), Type.f32) if scale.dtype != np.float32 else ops.constant(scale)
            restored = ops.multiply(ops.convert(ops.constant(integers), Type.f32), scales)
            if not is_dense:
                restored = ops.reshape(restored, np.asarray(kernel.shape), special_zero=False)
        restored.set_friendly_name(constant.get_friendly_name())
        place.replace_source_output(restored.output(0))


def _find_serving(model: Any) -> set[str]:
    """Return the names of the nodes that the probabilities depend on."""
    found: set[str] = set()
    waiting = [model.output(PROBABILITY).get_node()]
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() not in found:
            found.add(node.get_friendly_name())
            waiting += [each.get_source_output().get_node() for each in node.inputs()]
    return found


def load(path: Path) -> Callable[[Array], Outputs]:
    """Load a model.xml and its model.bin; see `FormatModule.load`. The function is thread-safe."""
    openvino = import_openvino()
    # Processors with AMX or AVX-512 BF16 would compute in bfloat16.
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    try:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(path), "CPU", options)
        names = [name for output in compiled.outputs for name in output.get_names()]
        inputs = [name for each in compiled.inputs for name in each.get_names()]
    except (RuntimeError, ValueError) as error:
        raise _build_error(path, "a model of OpenVINO with its model.bin", error) from error
    if inputs != [INPUT] or PROBABILITY not in names:
        expected, advice = f"a model from {INPUT} to {PROBABILITY}", "Export the run again, or check the path"
        raise HeadstartError(path, expected, "a model with other inputs or outputs", advice)
    requests = threading.local()

    def compute(images: Array) -> Outputs:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        try:
            found = requests.own.infer({INPUT: np.asarray(images, np.float32)}, share_inputs=True)
        except RuntimeError as error:
            raise _build_error(path, "a model that runs on these pictures", error) from error
        # The arrays belong to the request, and the next batch overwrites them.
        distances = np.array(found[DISTANCE])[:, 0] if DISTANCE in names else None
        return Outputs(np.array(found[PROBABILITY]), distances)

    return compute


def _build_error(path: Path, expected: str, error: Exception) -> HeadstartError:
    """Convert an exception of OpenVINO, whose last line has the reason."""
    got, advice = str(error).strip().rpartition("\n")[2][:300], "Export the run again, or check the path"
    return HeadstartError(path, expected, got or type(error).__name__, advice)
