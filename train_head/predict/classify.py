"""Classify pictures with an exported model, in batches, while later pictures are decoded in threads."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from base.errors import HeadstartError
from base.places.folders import NUM_CONNECTIONS
from base.urls import Location, is_url, parse_location
from extract.config import choose_batch_size
from extract.decoding.decode import decode_within_budget
from extract.decoding.memory import PixelMemory
from extract.decoding.policy import DecodePolicy
from extract.decoding.read import UndecodableImageError, read_picture, reserve_large_file
from extract.engines import count_cores, plan_streams
from extract.load import map_ahead
from extract.pipeline import BATCHES_WAITING
from train_head.data.batches import Array
from train_head.export.description import DIGEST_LENGTH
from train_head.export.formats import TENSORFLOW_FORMATS
from train_head.export.load import limit_batch
from train_head.export.open import ExportedModel
from train_head.export.outputs import Outputs
from train_head.predict.config import PredictConfig
from train_head.predict.prediction import Prediction, UnusedPicture, predict_labels


@dataclass(frozen=True)
class Batch:
    """Result of a batch of pictures, in their order."""

    predictions: list[Prediction]
    failed: list[UnusedPicture] = field(default_factory=list)
    features: Array | None = None
    """(n, channels) features of the pictures with a prediction, if the model has this output."""

    @property
    def num_pictures(self) -> int:
        """Number of pictures with and without a prediction."""
        return len(self.predictions) + len(self.failed)


@dataclass(frozen=True)
class _Loaded:
    """Resized picture, or the reason why it cannot be used."""

    path: Location
    pixels: Array | None = None
    """(image_size, image_size, 3) in 0-255."""
    is_training: bool = False
    failure: str = ""


class Classifier:
    """Classifier of picture files with an exported model."""

    def __init__(self, model: ExportedModel, config: PredictConfig, policy: DecodePolicy) -> None:
        """Create a classifier.

        Args:
            model: the model.
            config: options of the batches, of decoding and of the predictions.
            policy: rules of decoding.
        """
        self._model, self._config, self._policy = model, config, policy
        self._training = frozenset(model.description.training if model.description else ())
        self._memory = PixelMemory()
        num_cores = count_cores(0)
        # TensorFlow computes a batch on each core, as in extraction. The other runtimes distribute one over the cores.
        self._num_streams = plan_streams(num_cores).num_streams if model.format in TENSORFLOW_FORMATS else 1
        self._num_readers = num_cores

    def classify(self, paths: Sequence[str]) -> Generator[Batch, None, None]:
        """Yield the results of the pictures in batches, in the order of the pictures.

        Only a few batches are in memory at a time.

        Raises:
            HeadstartError: the model's runtime failed.
        """
        image_size = self._model.card.image_size
        batch_size = limit_batch(choose_batch_size(self._config.batch_size, image_size), image_size)
        # Their requests to a server wait most of the time.
        has_urls = any(map(is_url, paths))
        num_readers = max(self._num_readers, NUM_CONNECTIONS) if has_urls else self._num_readers
        num_ahead = 2 * batch_size + num_readers
        with (
            ThreadPoolExecutor(self._num_streams, thread_name_prefix="model") as running,
            ThreadPoolExecutor(num_readers, thread_name_prefix="read") as reading,
        ):
            batches = _group(map_ahead(reading, self._load, paths, num_ahead), batch_size)
            yield from map_ahead(running, self._compute, batches, self._num_streams + BATCHES_WAITING)

    def _load(self, name: str) -> _Loaded:
        path = parse_location(name)
        try:
            with reserve_large_file(_measure(path)):
                data = read_picture(path, self._config.max_pixels)
                is_training = bool(self._training) and _shorten_digest(data) in self._training
                with decode_within_budget(data, self._config.max_pixels, self._policy, self._memory) as pixels:
                    return _Loaded(path, self._model.resize(pixels), is_training)
        except UndecodableImageError as error:
            return _Loaded(path, failure=str(error))

    def _compute(self, group: list[_Loaded]) -> Batch:
        failed = [UnusedPicture(each.path, each.failure) for each in group if each.pixels is None]
        loaded = [each for each in group if each.pixels is not None]
        if not loaded:
            return Batch([], failed)
        outputs = self._run(np.stack([each.pixels for each in loaded if each.pixels is not None]))
        distances = [None] * len(loaded) if outputs.distances is None else outputs.distances.tolist()
        found = [
            predict_labels(
                each.path, row, distance, self._model.card, self._config.unsure, is_training=each.is_training
            )
            for each, row, distance in zip(loaded, outputs.probabilities, distances, strict=True)
        ]
        return Batch(found, failed, outputs.features)

    def _run(self, images: Array) -> Outputs:
        try:
            return self._model.run(images)
        except HeadstartError:
            raise
        except Exception as error:
            # Runtimes raise many kinds of errors; most are caused by insufficient memory.
            got, advice = f"{type(error).__name__}: {error}", "Give a smaller batch size, or close other programs"
            raise HeadstartError(self._model.path, "outputs of the model", got, advice) from error


def _group(pictures: Iterator[_Loaded], size: int) -> Iterator[list[_Loaded]]:
    while group := list(islice(pictures, size)):
        yield group


def _measure(path: Location) -> int:
    """Return the size of a file in bytes; 0 at a URL, and if it is unreachable, so that reading it fails later."""
    try:
        return path.stat().st_size if isinstance(path, Path) else 0
    except OSError:
        return 0


def _shorten_digest(data: bytes) -> str:
    """Return the digest of a picture's file as model.json lists it."""
    return hashlib.sha256(data).hexdigest()[:DIGEST_LENGTH]
