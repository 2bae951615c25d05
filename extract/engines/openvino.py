"""Engine that runs the backbone with OpenVINO, for processors by Intel and AMD."""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from extract.config import Precision
from extract.engines import Streams
from extract.engines.tensorflow import freeze_model

if TYPE_CHECKING:
    import keras


class OpenVinoEngine:
    """OpenVINO engine for a cut backbone with one or more outputs."""

    def __init__(self, model: keras.Model, precision: Precision, streams: Streams) -> None:
        """Convert and compile the model."""
        openvino = import_openvino()
        graph = freeze_model(model)
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision is Precision.BFLOAT16 else "f32",
            "NUM_STREAMS": streams.num_streams,
            "INFERENCE_NUM_THREADS": streams.num_cores,
        }
        core = openvino.Core()
        self._compiled = core.compile_model(read_graph(core, graph.graph.as_graph_def()), "CPU", options)
        self._names = [output.name for output in graph.outputs]
        self._requests = threading.local()

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Run the backbone; see `Engine.run`."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        outputs = self._requests.own.infer([batch], share_inputs=True)
        return [np.array(outputs[name]) for name in self._names]


def import_openvino() -> Any:
    """Import and return OpenVINO, without its telemetry: it reports each import to a server."""
    # OpenVINO does without its telemetry package if it cannot import it.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def read_graph(core: Any, graph: Any) -> Any:
    """Convert a TensorFlow `GraphDef` without variables to an `openvino.Model`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.pb")
        path.write_bytes(graph.SerializeToString())
        return core.read_model(path)
