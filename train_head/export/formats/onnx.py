"""ONNX format: `model.onnx`, for ONNX Runtime and other runtimes in many languages."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from base.errors import HeadstartError
from extract.engines import count_cores
from train_head.data.batches import Array
from train_head.export.config import Dtype
from train_head.export.formats import Source
from train_head.export.formats.graph import INPUT
from train_head.export.formats.onnx_graph import convert_function, import_onnxruntime
from train_head.export.formats.onnx_weights import store_weights
from train_head.export.outputs import DISTANCE, PROBABILITY, Outputs

if TYPE_CHECKING:
    import onnx

ONNX_FILE = "model.onnx"
LABELS_KEY, DESCRIPTION_KEY = "labels", "headstart"
"""Keys of the metadata: the class names as a JSON list, and the content of model.json without the training pictures."""
_SEVERITY_FATAL = 4


def convert(source: Source, folder: Path) -> None:
    """Write model.onnx."""
    (folder / ONNX_FILE).write_bytes(build_onnx(source).SerializeToString())


def build_onnx(source: Source) -> onnx.ModelProto:
    """Convert a model to ONNX.

    Returns:
        A model from `rgb`, (batch, height, width, 3), to `probability` and, if it has a detector, `distance`.
    """
    from onnx import helper

    model = convert_function(source.function)
    if source.dtype is not Dtype.FLOAT32:
        store_weights(model, source.dtype)
    helper.set_model_props(
        model, {LABELS_KEY: json.dumps(source.card.classes), DESCRIPTION_KEY: source.encode_description()}
    )
    return model


def load(path: Path) -> Callable[[Array], Outputs]:
    """Load a model.onnx; see `FormatModule.load`. The function is thread-safe."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = count_cores(0)
    options.log_severity_level = _SEVERITY_FATAL
    # Threads that wait in a loop take time from those that decode pictures.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A pattern is kept for each size of picture.
    options.enable_mem_pattern = False
    try:
        # ONNX Runtime opens only paths in UTF-8.
        model = path if os.fsencode(path).decode(errors="ignore") == str(path) else path.read_bytes()
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:
        raise _build_error(path, "an ONNX model", error) from error
    names = [name for name in (PROBABILITY, DISTANCE) if name in {each.name for each in session.get_outputs()}]
    if [each.name for each in session.get_inputs()] != [INPUT] or PROBABILITY not in names:
        expected, advice = f"a model from {INPUT} to {PROBABILITY}", "Export the run again, or check the path"
        raise HeadstartError(path, expected, "a model with other inputs or outputs", advice)

    def compute(images: Array) -> Outputs:
        try:
            probabilities, *distances = session.run(names, {INPUT: np.asarray(images, np.float32)})
        except Exception as error:
            raise _build_error(path, "a model that runs on these pictures", error) from error
        return Outputs(probabilities, distances[0][:, 0] if distances else None)

    return compute


def _build_error(path: Path, expected: str, error: Exception) -> HeadstartError:
    """Convert an exception of ONNX Runtime; these have no common class."""
    got, advice = str(error).strip().partition("\n")[0][:300], "Export the run again, or check the path"
    return HeadstartError(path, expected, got or type(error).__name__, advice)
