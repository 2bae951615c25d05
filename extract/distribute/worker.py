"""Worker of a distributed extraction: it computes the features of some pictures, and writes their shard."""

from __future__ import annotations

import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from base.errors import HeadstartError
from base.lock import LOCK_NAME
from base.places.open import open_place
from base.terminal import Console, ConsoleOptions
from base.urls import UrlPath
from base.version import find_version
from extract.config import ExtractConfig
from extract.cut_backbone import CutBackbone
from extract.decoding.policy import DecodePolicy
from extract.engines.choose import Computer, EngineChoice, check_engine
from extract.engines.processor import find_processor, has_gpu
from extract.load import LoadedImage
from extract.pipeline import FeaturePipeline
from extract.stores import build_feature_spec
from extract.weights.find import Weights
from features.catalog.database import convert_write_error
from features.catalog.locations import Locations
from features.catalog.tables import ImageRow
from features.quantized import QuantizedModel
from features.schema import FeatureKey, FeatureStatus
from features.shards.shard import ShardRef, write_shard
from features.shards.write import ShardEncoder


@dataclass(frozen=True)
class WorkerSetup:
    """Everything that a worker needs to compute the features of a run."""

    config: ExtractConfig
    """Options of the run; `threads` is the number of cores of a worker."""
    policy: DecodePolicy
    weights: Weights
    weights_file: NDArray[np.uint8] | None
    """Bytes of the weights file, which need not exist on the worker's computer; None if there is no file."""
    quantized: Mapping[str, QuantizedModel]
    encoders: Sequence[ShardEncoder]
    stored: Sequence[Locations]
    """Features that each store has; those that all have need not be computed."""
    lock: str
    """Content of the lock file of the first store, by which a worker recognises that it has the same folder."""


class WorkerIdentity(NamedTuple):
    """The node of a worker, and the properties that all workers of a run must share."""

    node: str
    properties: Mapping[str, str]


class WrittenShard(NamedTuple):
    """Shard that a worker has written, with the keys and statuses of its rows."""

    shard: ShardRef
    keys: list[FeatureKey]
    statuses: list[FeatureStatus]


class TaskResult(NamedTuple):
    """Result of a task: its pictures, without their views, and a shard for each store; none without new features."""

    images: list[LoadedImage]
    shards: list[WrittenShard]


class Worker:
    """Worker that computes one task at a time. `count_done` and `stop` may be called meanwhile, in another thread."""

    def __init__(self, setup: WorkerSetup) -> None:
        """Create a worker without its backbone."""
        self._setup, self._num_done, self._is_stopped = setup, 0, False

    @cached_property
    def _backbone(self) -> CutBackbone:
        setup = self._setup
        backbone = CutBackbone(setup.config, setup.weights, Console(ConsoleOptions(quiet=True)))
        backbone.quantized = dict(setup.quantized)
        if setup.weights_file is not None and setup.weights.path is not None:
            with tempfile.TemporaryDirectory() as folder:
                # Keras recognises the layout of a file by its name.
                path = Path(folder, setup.weights.path.name)
                path.write_bytes(setup.weights_file.data)
                backbone.weights = replace(setup.weights, path=path)
                _ = backbone.models
            backbone.weights = setup.weights
        return backbone

    def start(self) -> WorkerIdentity:
        """Load the backbone, and return what must be the same for all workers.

        Raises:
            HeadstartError: this computer cannot compute the features, or the folders of the run are not on it.
        """
        setup, node = self._setup, socket.gethostname()
        computer = Computer(find_processor(), has_gpu())
        check_engine(EngineChoice(setup.config.engine, setup.config.precision, is_stored=True), computer)
        store = setup.encoders[0].store
        for place, expected in ((setup.config.images, "the folder of pictures"), (store, "the folder of the store")):
            if isinstance(place, UrlPath):
                # A local archive must exist here too. A URL is read when the first picture is.
                open_place(place)
            elif not place.is_dir():
                raise _build_sharing_error(node, place, expected, "no such folder")
        # Another process may have the lock of a folder at the same path on this computer.
        lock = store / LOCK_NAME
        if not lock.is_file() or lock.read_text(errors="replace") != setup.lock:
            raise _build_sharing_error(node, store, "the folder of the store", "another folder at this path")
        properties = describe_features(setup.config, self._backbone, setup.policy)
        _ = self._backbone.engine
        return WorkerIdentity(node, properties)

    def extract(self, images: Sequence[ImageRow], numbers: Sequence[int]) -> TaskResult:
        """Compute the features of pictures, and write them as one shard in each store.

        Args:
            images: catalog rows of the pictures.
            numbers: number of the shard in each store.

        Returns:
            The result; it has fewer pictures after `stop`.

        Raises:
            HeadstartError: the engine failed, or a store cannot be written.
        """
        encoders = self._setup.encoders
        done: list[LoadedImage] = []
        keys: list[FeatureKey] = []
        outputs: list[tuple[list[bytes], list[FeatureStatus]]] = [([], []) for _ in encoders]
        self._num_done = 0
        pipeline = FeaturePipeline(self._setup.config, self._backbone, encoders, self._is_stored, self._setup.policy)
        with pipeline.start(images) as batches:
            for batch in batches:
                done += batch.images
                keys += batch.keys
                for (rows, statuses), (more_rows, more_statuses) in zip(
                    outputs, batch.outputs, strict=bool(batch.keys)
                ):
                    rows += more_rows
                    statuses += more_statuses
                self._num_done = len(done)
                if self._is_stopped:
                    break
        if not keys:
            return TaskResult(done, [])
        shards = [
            _write(encoder, number, keys, rows, statuses)
            for encoder, number, (rows, statuses) in zip(encoders, numbers, outputs, strict=True)
        ]
        return TaskResult(done, shards)

    def count_done(self) -> int:
        """Return the number of pictures that the current task has computed."""
        return self._num_done

    def stop(self) -> None:
        """Let the current task end after its current batch."""
        self._is_stopped = True

    def _is_stored(self, key: FeatureKey) -> bool:
        return all(key in stored for stored in self._setup.stored)


def _write(
    encoder: ShardEncoder,
    number: int,
    keys: list[FeatureKey],
    rows: list[bytes],
    statuses: list[FeatureStatus],
) -> WrittenShard:
    data = encoder.encode_shard(keys, rows, statuses)
    try:
        shard = write_shard(encoder.store, number, data, len(keys))
    except OSError as error:
        raise convert_write_error(encoder.store, error) from error
    return WrittenShard(shard, keys, statuses)


def describe_features(config: ExtractConfig, backbone: CutBackbone, policy: DecodePolicy) -> dict[str, str]:
    """Return the fields of the fingerprints of a backbone's features, and the versions of the packages.

    Two computers with equal values compute equal features, except for the differences between their processors.
    """
    found = {"Python": "{}.{}".format(*sys.version_info), "headstart": find_version("headstart")}
    for cut in config.cuts:
        model = backbone.quantized.get(cut)
        spec = build_feature_spec(config, cut, backbone, policy, model.digest if model else "")
        found |= {f"{name} of {cut}": str(value) for name, value in asdict(spec.fingerprint).items()}
        found |= spec.origin.versions
    return found


def _build_sharing_error(node: str, place: Path, expected: str, got: str) -> HeadstartError:
    advice = "Put pictures and store on storage that all nodes have at the same path"
    return HeadstartError(f"{place} on {node}", expected, got, advice)
