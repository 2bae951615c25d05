"""Engine that runs the backbone with OpenVINO, for processors by Intel and AMD."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from base.errors import HeadstartError
from extract.config import Precision
from extract.engines import Streams
from extract.engines.tensorflow import freeze_model
from features.quantized import QuantizedModel

if TYPE_CHECKING:
    import keras


class OpenVinoEngine:
    """OpenVINO engine for a cut backbone with one or more outputs."""

    def __init__(self, model: Any, outputs: Sequence[str], precision: Precision, streams: Streams) -> None:
        """Compile an `openvino.Model`.

        Args:
            model: the backbone; `read_backbone` converts one of Keras.
            outputs: names of the outputs, in the order of `run`.
            precision: precision of the computation; a quantised model computes in int8 and the rest in float32.
            streams: distribution of the cores.
        """
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision is Precision.BFLOAT16 else "f32",
            "NUM_STREAMS": streams.num_streams,
            "INFERENCE_NUM_THREADS": streams.num_cores,
        }
        self._compiled = import_openvino().Core().compile_model(model, "CPU", options)
        self._names = outputs
        self._requests = threading.local()

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Run the backbone; see `Engine.run`."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        outputs = self._requests.own.infer([batch], share_inputs=True)
        return [np.array(outputs[name]) for name in self._names]


class QuantizedEngine:
    """OpenVINO engine in int8 for one or more cuts.

    Cuts that were added to the stores one after the other have a quantised model each, and all of them run.
    """

    def __init__(self, models: Mapping[str, QuantizedModel], streams: Streams) -> None:
        """Compile the quantised model of each cut; the outputs of `run` are in the order of the cuts."""
        core = import_openvino().Core()
        self._cuts = list(models)
        self._parts = []
        for digest, model in {model.digest: model for model in models.values()}.items():
            cuts = [cut for cut in models if models[cut].digest == digest]
            read = core.read_model(model.graph, model.weights)
            self._parts.append((cuts, OpenVinoEngine(read, cuts, Precision.INT8, streams)))

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Run the backbone; see `Engine.run`."""
        found = {cut: output for cuts, part in self._parts for cut, output in zip(cuts, part.run(batch), strict=True)}
        return [found[cut] for cut in self._cuts]


def import_openvino() -> Any:
    """Import and return OpenVINO, without its telemetry: it reports each import to a server."""
    # OpenVINO does without its telemetry package if it cannot import it.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def read_backbone(model: keras.Model) -> tuple[Any, list[str]]:
    """Convert a cut backbone to an `openvino.Model`; return it and the names of its outputs."""
    graph = freeze_model(model)
    return read_graph(import_openvino().Core(), graph.graph.as_graph_def()), [output.name for output in graph.outputs]


def read_graph(core: Any, graph: Any) -> Any:
    """Convert a TensorFlow `GraphDef` without variables to an `openvino.Model`."""
    with make_temporary_folder() as folder:
        path = folder / "model.pb"
        path.write_bytes(graph.SerializeToString())
        return core.read_model(path)


@contextmanager
def make_temporary_folder() -> Iterator[Path]:
    """Create a folder for the files of a conversion, and remove it after the `with` block.

    Raises:
        HeadstartError: it cannot be written; the body raised OSError.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    except OSError as error:
        where, got = tempfile.tempdir or "TMPDIR", error.strerror or str(error)
        advice = "Free some space there, or set TMPDIR to another folder"
        raise HeadstartError(where, "a writable temporary folder with free space", got, advice) from error
