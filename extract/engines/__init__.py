"""Engines: what runs the cut backbone on prepared pictures, behind one small interface."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from base.errors import UsageError
from extract.config import EngineName, Precision

if TYPE_CHECKING:
    import keras

MAX_STREAMS = 8
_ONEDNN = "TF_ENABLE_ONEDNN_OPTS"


class Engine(Protocol):
    """A cut backbone that may be called from several threads at a time."""

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Run the backbone on (n, s, s, 3) float32 in [-1, 1].

        Returns:
            For each output of the model (n, ...) float32. A row does not depend on the others in the batch.
        """


@dataclass(frozen=True)
class Streams:
    """Division of the cores."""

    num_cores: int
    num_streams: int
    """Number of batches that run at the same time."""
    num_threads: int
    """Number of threads that all streams share beside their own."""


def plan_streams(num_cores: int) -> Streams:
    """Divide the cores: a batch at a time for each, up to eight; the others work inside the layers.

    Two batches with a core each run at 121 pictures/s where one with two cores runs at 110 (150 px): small layers
    split badly. Each batch takes some 150 MB, so that there are not sixty of them on a large machine.
    """
    num_streams = min(num_cores, MAX_STREAMS)
    return Streams(num_cores, num_streams, max(1, num_cores - num_streams))


def count_cores(requested: int) -> int:
    """Return the number of cores asked for, or of all that this process may use."""
    if requested:
        return requested
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_engine(name: EngineName, precision: Precision) -> None:
    """Raise UsageError for an engine that is not installed or a precision that the processor lacks."""
    from importlib.util import find_spec

    if name is EngineName.OPENVINO and find_spec("openvino") is None:
        advice = "Run `pip install openvino`, or `make extract ENGINE=openvino`, which does"
        raise UsageError("--engine openvino", "OpenVINO", "none installed", advice)
    if precision is Precision.BFLOAT16 and not has_bfloat16(Path("/proc/cpuinfo")):
        expected = "a processor with bfloat16 instructions"
        raise UsageError("--precision bfloat16", expected, "none that Linux reports", "Leave the option out")
    if (name, precision, os.environ.get(_ONEDNN)) == (EngineName.TENSORFLOW, Precision.BFLOAT16, "0"):
        advice = "Unset it, try --engine openvino, or leave the option out"
        raise UsageError("--precision bfloat16", "TensorFlow with oneDNN", f"{_ONEDNN}=0", advice)


def has_bfloat16(cpuinfo: Path) -> bool:
    """Return whether Linux lists a processor with bfloat16 products: AVX-512 BF16, AMX or ARM's BF16."""
    words = cpuinfo.read_text(encoding="utf-8", errors="replace").split() if cpuinfo.is_file() else []
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(words)


def build_engine(name: EngineName, precision: Precision, model: keras.Model, streams: Streams) -> Engine:
    """Build an engine for a cut backbone with one output or several."""
    if name is EngineName.OPENVINO:
        from extract.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(model, precision, streams)
    from extract.engines.tensorflow import TensorFlowEngine

    return TensorFlowEngine(model, precision)
