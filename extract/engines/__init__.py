"""Engines: what runs the cut backbone on prepared pictures, behind one small interface."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from base.errors import UsageError
from extract.config import EngineName, Precision

if TYPE_CHECKING:
    import keras

MAX_STREAMS = 8

LEAST_BFLOAT16_ERROR = 2**-12
"""Of features, in norm. A single rounding to eight bits is off by about 2**-9 already; float32 by less than 1e-5."""


class Engine(Protocol):
    """Runs batches; may be called from several threads at a time."""

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Runs the backbone.

        Args:
            batch: (n, s, s, 3) float32 in [-1, 1].

        Returns:
            For each output of the model (n, ...) float32. A row does not depend on the others in the batch.
        """


@dataclass(frozen=True)
class Streams:
    """How cores are shared out."""

    num_cores: int
    num_streams: int
    """Batches that are run at the same time."""
    num_threads: int
    """That all streams share beside the one that each has."""


def plan_streams(num_cores: int) -> Streams:
    """Shares out cores: a batch at a time for each, up to eight; what is left works inside the layers.

    Two batches with a core each run at 121 pictures/s where one with two cores runs at 110 (150 px): small layers
    split badly. Each batch takes some 150 MB, so that there are not sixty of them on a large machine.
    """
    num_streams = min(num_cores, MAX_STREAMS)
    return Streams(num_cores, num_streams, max(1, num_cores - num_streams))


def count_cores(asked: int) -> int:
    """Says how many cores to use: those asked for, or all that this process may run on."""
    if asked:
        return asked
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_engine(name: EngineName, precision: Precision) -> None:
    """Raises UsageError where an engine is not installed or the processor lacks a precision; needs no TensorFlow."""
    from importlib.util import find_spec

    if name is EngineName.OPENVINO and find_spec("openvino") is None:
        advice = "Run `pip install openvino`, or `make extract ENGINE=openvino`, which does"
        raise UsageError("--engine openvino", "OpenVINO", "none installed", advice)
    if precision is Precision.BFLOAT16 and not has_bfloat16(Path("/proc/cpuinfo")):
        raise UsageError(
            "--precision bfloat16",
            "a processor with bfloat16 instructions",
            "none that Linux reports",
            "Leave the option out",
        )


def has_bfloat16(cpuinfo: Path) -> bool:
    """Says whether the processor multiplies bfloat16: AVX-512 BF16, AMX or ARM's BF16, as Linux lists them."""
    if not cpuinfo.is_file():
        return False
    words = set(cpuinfo.read_text(encoding="utf-8", errors="replace").split())
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def refuse_float32(found: Sequence[NDArray[np.float32]], exact: Any) -> None:
    """Raises UsageError where an engine that is to compute in bfloat16 is as exact as float32.

    Args:
        found: the engine's outputs.
        exact: the model's, computed in float32: an array, or a list of them.
    """
    outputs = exact if isinstance(exact, list | tuple) else [exact]
    differences = [
        float(np.linalg.norm(mine - theirs) / np.linalg.norm(theirs))
        for mine, theirs in zip(found, map(np.asarray, outputs), strict=True)
    ]
    if max(differences) < LEAST_BFLOAT16_ERROR:
        raise UsageError(
            "--precision bfloat16",
            "an engine that computes in it",
            f"float32's features to {max(differences):.0e}",
            "Unset TF_ENABLE_ONEDNN_OPTS, try --engine openvino, or leave the option out",
        )


def build_engine(name: EngineName, precision: Precision, model: keras.Model, streams: Streams) -> Engine:
    """Builds an engine.

    Args:
        name: which.
        precision: what it computes in.
        model: the cut backbone, with one output or several.
        streams: how many batches will be run at a time.
    """
    if name is EngineName.OPENVINO:
        from extract.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(model, precision, streams)
    from extract.engines.tensorflow import TensorFlowEngine

    return TensorFlowEngine(model, precision)
