"""Engines that run the cut backbone, with one interface."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from extract.config import EngineName, Precision
from features.quantized import QuantizedModel

if TYPE_CHECKING:
    import keras

MAX_STREAMS = 8


class Engine(Protocol):
    """Interface of an engine; thread-safe."""

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Run the backbone on a batch, (n, image_size, image_size, 3) float32 in [-1, 1].

        Returns:
            (n, ...) float32 for each output of the model. A row does not depend on the other rows.
        """


@dataclass(frozen=True)
class Streams:
    """Distribution of the cores over batches and layers."""

    num_cores: int
    num_streams: int
    """Number of batches that run at the same time."""
    num_threads: int
    """Number of further threads, shared by all streams, that work inside the layers."""


def plan_streams(num_cores: int) -> Streams:
    """Distribute the cores: one batch on each core, up to `MAX_STREAMS`; further cores work inside the layers.

    Small layers do not parallelize well: on two cores, two batches run at 121 pictures/s and one batch at 110 (150 px).
    A batch takes about 150 MB, so the number of batches is limited.
    """
    num_streams = min(num_cores, MAX_STREAMS)
    return Streams(num_cores, num_streams, max(1, num_cores - num_streams))


def count_cores(requested: int) -> int:
    """Return the requested number of cores; for 0, the number that this process may use."""
    if requested:
        return requested
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def build_engine(name: EngineName, precision: Precision, model: keras.Model, streams: Streams) -> Engine:
    """Build an engine for a cut backbone with one or more outputs, in float32 or bfloat16."""
    if name is EngineName.OPENVINO:
        from extract.engines.openvino import OpenVinoEngine, read_backbone

        return OpenVinoEngine(*read_backbone(model), precision, streams)
    from extract.engines.tensorflow import TensorFlowEngine

    return TensorFlowEngine(model, precision)


def build_quantized_engine(models: Mapping[str, QuantizedModel], streams: Streams) -> Engine:
    """Build an engine in int8; its outputs are in the order of the cuts, the keys of `models`."""
    from extract.engines.openvino import QuantizedEngine

    return QuantizedEngine(models, streams)
