"""Classification of uploaded pictures: decoded in threads, and classified together by one thread of the model."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from base.errors import HeadstartError
from extract.decoding.decode import decode_within_budget
from extract.decoding.policy import DecodePolicy
from extract.decoding.read import UndecodableImageError, reserve_large_file
from train_head.data.batches import Array
from train_head.export.load import limit_batch
from train_head.export.open import ExportedModel
from train_head.predict.prediction import Prediction, UnusedPicture, predict_labels
from train_head.serve.config import ServeConfig
from train_head.serve.form import Upload
from train_head.serve.neighbours import Neighbour, TrainingPictures

MAX_DECODED = 64
"""Largest number of decoded pictures that wait for the model."""
_BATCH_SIZE = 16
_NUM_DECODERS = max(1, min(4, (os.cpu_count() or 1) - 1))


class Classified(NamedTuple):
    """Prediction of an uploaded picture, with the nearest training pictures."""

    prediction: Prediction
    nearest: Sequence[Neighbour] | None
    """None without training pictures."""


class _Waiting(NamedTuple):
    """Decoded picture that waits for the model."""

    pixels: Array
    found: asyncio.Future[tuple[Array, float | None, Array | None]]
    """Row of each output."""


class Classifier:
    """Classifies pictures for all requests; its methods are called by the thread of the event loop."""

    def __init__(
        self, model: ExportedModel, policy: DecodePolicy, config: ServeConfig, training: TrainingPictures | None
    ) -> None:
        """Start the threads.

        Args:
            model: the model, which one thread runs; with features among its outputs if there are training pictures.
            policy: rules of decoding.
            config: options of decoding and of the predictions.
            training: training pictures to compare with; None for no comparison.
        """
        self.model, self.training = model, training
        self._policy, self._max_pixels, self._unsure = policy, config.max_pixels, config.unsure
        self._batch_size = limit_batch(_BATCH_SIZE, model.card.image_size)
        self._decoders = ThreadPoolExecutor(_NUM_DECODERS, "decode")
        self._runner = ThreadPoolExecutor(1, "model")
        self._slots = asyncio.Semaphore(MAX_DECODED)
        self._waiting: deque[_Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None

    def warm_up(self) -> None:
        """Classify a black picture, so that the libraries are loaded before the first request."""
        size = self.model.card.image_size
        self.model.run(self.model.resize(np.zeros((size, size, 3), np.uint8))[None])

    async def classify(self, upload: Upload) -> Classified | UnusedPicture:
        """Classify a picture; return the reason for one that cannot be decoded."""
        loop = asyncio.get_running_loop()
        async with self._slots:
            try:
                pixels = await loop.run_in_executor(self._decoders, self._decode, upload.data)
            except UndecodableImageError as error:
                return UnusedPicture(Path(upload.name), str(error))
            waiting = _Waiting(pixels, loop.create_future())
            self._waiting.append(waiting)
            if self._worker is None or self._worker.done():
                self._worker = asyncio.create_task(self._run_waiting())
            row, distance, features = await waiting.found
        card, nearest = self.model.card, None
        if self.training and features is not None:
            nearest = await loop.run_in_executor(self._decoders, self.training.find_nearest, features)
        return Classified(predict_labels(Path(upload.name), row, distance, card, self._unsure), nearest)

    async def run_in_thread(self, function: Callable[..., bytes], *arguments: object) -> bytes:
        """Call a function in one of the threads that decode pictures."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function, *arguments)

    def _decode(self, data: bytes) -> Array:
        budget = decode_within_budget(data, self._max_pixels, self._policy)
        with reserve_large_file(len(data)), budget as pixels:
            return self.model.resize(pixels)

    async def _run_waiting(self) -> None:
        """Run the model until no picture waits. Pictures that arrive during a run form the next batch."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._batch_size, len(self._waiting)))]
            # A request that was given up has cancelled its futures.
            batch = [waiting for waiting in batch if not waiting.found.done()]
            if not batch:
                continue
            try:
                pixels = np.stack([waiting.pixels for waiting in batch])
                outputs = await loop.run_in_executor(self._runner, self.model.run, pixels)
                for number, waiting in enumerate(batch):
                    distance = None if outputs.distances is None else float(outputs.distances[number])
                    features = None if outputs.features is None else outputs.features[number]
                    if not waiting.found.done():
                        waiting.found.set_result((outputs.probabilities[number], distance, features))
            except Exception as error:
                # Runtimes raise many kinds of errors; the requests must not wait for their results.
                found, advice = f"{type(error).__name__}: {error}", "Start the server again, or use a smaller model"
                failure = HeadstartError(self.model.path, "outputs of the model", found, advice)
                for waiting in batch:
                    if not waiting.found.done():
                        waiting.found.set_exception(failure)
