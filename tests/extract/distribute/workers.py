"""Workers of Ray for tests: with a backbone without TensorFlow, and faults on request."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.terminal import Console
from base.urls import Location
from extract.config import ExtractConfig
from extract.cut_backbone import CutBackbone
from extract.decoding.policy import DecodePolicy
from extract.weights.find import Weights, WeightsName
from features.quantized import QuantizedModel
from tests.extract.mean_colours import MeanColours

HOOK = "tests.extract.distribute.workers.replace_backbone"
"""Function that Ray calls when a worker process starts."""
REAL_SIZE = 75
"""Image size of the extractions with TensorFlow, and a small backbone."""
NUM_ROWS = 6
"""Rows of a shard in the extractions without TensorFlow."""
KILL_ONCE, KILL, SLOW, OTHER = "kill once", "kill", "slow", "other weights"
"""Faults: the first worker is killed in its first batch, or all are; batches are slow; other weights in the workers."""


def request_fault(images: Location, fault: str) -> None:
    """Let the workers that extract a folder have a fault."""
    _locate_fault(images).write_text(fault)


def _locate_fault(images: Location) -> Path:
    return Path(str(images)).with_name("fault")


class FakeBackbone(MeanColours):
    """`MeanColours` with the attributes of `CutBackbone`, and the requested fault."""

    def __init__(self, config: ExtractConfig, *_: object) -> None:
        super().__init__()
        self.weights, self.engine, self.models = Weights(WeightsName.RANDOM), None, SimpleNamespace()
        self.quantized: dict[str, QuantizedModel] = {}
        self._fault = _locate_fault(config.images)

    def read_fault(self) -> str:
        return self._fault.read_text() if self._fault.exists() else ""

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        fault = self.read_fault()
        self._fault.with_name(f"worker-{os.getpid()}").touch()
        if fault == KILL_ONCE:
            self._fault.unlink()
        if fault in (KILL, KILL_ONCE):
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == SLOW:
            time.sleep(0.3)
        return super().run(batch)


def list_workers(images: Path) -> list[int]:
    """List the processes that have computed features of a folder."""
    return [int(path.name.removeprefix("worker-")) for path in images.parent.glob("worker-*")]


def describe_fake(config: ExtractConfig, backbone: Any, policy: DecodePolicy) -> Mapping[str, str]:
    """Return the properties of a worker, as `describe_features` does."""
    return {"numpy": np.__version__, "weights_sha256 of mixed0": "ab" * 32}


def replace_backbone() -> None:
    """Replace the backbone of the workers of this process."""
    import extract.cut_backbone
    from extract.distribute import worker
    from tests.backbones import build_small_backbone

    describe = worker.describe_features

    def create(config: ExtractConfig, weights: Weights, console: Console) -> CutBackbone | FakeBackbone:
        real = config.image_size == REAL_SIZE
        return CutBackbone(config, weights, console) if real else FakeBackbone(config)

    def describe_any(config: ExtractConfig, backbone: Any, policy: DecodePolicy) -> Mapping[str, str]:
        if not isinstance(backbone, FakeBackbone):
            return describe(config, backbone, policy)
        properties = dict(describe_fake(config, backbone, policy))
        if backbone.read_fault() == OTHER:
            properties["weights_sha256 of mixed0"] = "cd" * 32
        return properties

    for module, name, value in (
        (extract.cut_backbone, "build_backbone", build_small_backbone),
        (worker, "CutBackbone", create),
        (worker, "describe_features", describe_any),
    ):
        setattr(module, name, value)
