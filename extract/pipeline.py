"""Compute features: read pictures and run the backbone in threads, in the order of the pictures."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import chain
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from base.places.open import count_readers
from extract.config import ExtractConfig
from extract.decoding.memory import PixelMemory
from extract.decoding.policy import DecodePolicy
from extract.engines import Streams
from extract.load import LoadedImage, cancel, group_files, load_images, map_ahead, start_threads
from extract.views import Prepare, list_views
from features.catalog.tables import ImageRow
from features.schema import FeatureKey, Features, FeatureStatus
from features.shards.write import ShardEncoder

SMALLEST_BATCH = 8
"""Number of pictures down to which the engine is as fast as with larger batches."""
BATCHES_WAITING = 4
"""Number of batches that wait for the backbone, so that it has work while the main thread writes a shard."""
SECONDS_TO_FINISH = 1.5
"""Time after an interrupt in which the backbone may finish its current batches."""


class Backbone(Protocol):
    """Interface of the backbone that the pipeline uses."""

    streams: Streams

    @property
    def prepare(self) -> Prepare:
        """Function that turns decoded pixels into views."""

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the features of each cut, (n, *feature_shape), for a batch of views."""

    def round(self, values: NDArray[np.float32]) -> tuple[Features, list[FeatureStatus]]:
        """Return the same as `round_features`."""


class ComputedBatch(NamedTuple):
    """Pictures of a batch, and the features of their views that were neither stored nor in an earlier batch."""

    images: list[LoadedImage]
    """The pictures, without their views."""
    keys: list[FeatureKey]
    outputs: list[tuple[list[bytes], list[FeatureStatus]]]
    """Compressed features and statuses for each output of the backbone; empty if there are no keys."""


_Batch = tuple[list[LoadedImage], dict[FeatureKey, NDArray[np.float32]]]


def limit_batch(batch_size: int, num_left: int, num_streams: int, smallest: int = SMALLEST_BATCH) -> int:
    """Return the size of the next batch, with at most `num_left` views to go.

    With several streams, the last batches become smaller, down to `smallest`, so that all streams end at about the same
    time.
    """
    if num_streams == 1:
        return batch_size
    return min(batch_size, max(smallest, -(-num_left // (2 * num_streams))))


class FeaturePipeline:
    """Pipeline from pictures to compressed features, in batches. It is used once."""

    def __init__(
        self,
        config: ExtractConfig,
        backbone: Backbone,
        encoders: Sequence[ShardEncoder],
        is_stored: Callable[[FeatureKey], bool],
        policy: DecodePolicy,
    ) -> None:
        """Create the pipeline.

        Args:
            config: options of the extraction.
            backbone: backbone with an output for each encoder.
            encoders: encoders of the features of each output.
            is_stored: returns whether a feature need not be computed; called in several threads.
            policy: decode policy.
        """
        self._config, self._backbone, self._encoders = config, backbone, encoders
        self._is_stored, self._policy = is_stored, policy
        self._in_progress: set[FeatureKey] = set()
        self._pending: deque[Future[ComputedBatch]] = deque()
        self.read_seconds = 0.0
        """Time for which the backbone waited for pictures."""

    @contextmanager
    def start(self, images: Sequence[ImageRow]) -> Iterator[Iterator[ComputedBatch]]:
        """Start the threads for the block, and yield an iterator over the batches."""
        config, streams, prepare = self._config, self._backbone.streams, self._backbone.prepare
        # A task reads a quarter of a batch, so that memory does not depend on the number of views.
        num_together = max(1, config.effective_batch_size // (4 * config.views))
        num_readers = count_readers(config.images, streams.num_cores)
        num_ahead = -(-2 * config.effective_batch_size // (num_together * config.views)) + num_readers
        memory = PixelMemory()

        def load(group: Sequence[ImageRow]) -> list[LoadedImage]:
            return load_images(group, config, prepare, self._list_missing, self._policy, memory)

        with (
            start_threads(streams.num_streams, "backbone") as running,
            start_threads(num_readers, "read") as reading,
        ):
            loaded = map_ahead(reading, load, group_files(images, num_together), num_ahead)
            batches = self._group(chain.from_iterable(loaded), len(images))
            try:
                yield map_ahead(running, self._compute, batches, streams.num_streams + BATCHES_WAITING, self._pending)
            finally:
                cancel(self._pending)
                batches.close()
                loaded.close()

    def finish(self) -> Iterator[ComputedBatch]:
        """Yield the current batch again, and those that the backbone finishes soon; start no others.

        In a short run, no batch is stored before an interrupt, because a batch is yielded only after later ones have
        been submitted.

        Raises:
            TimeoutError: `SECONDS_TO_FINISH` have passed.
        """
        cancel(self._pending)
        deadline = time.monotonic() + SECONDS_TO_FINISH
        while self._pending and not self._pending[0].cancelled():
            yield self._pending[0].result(max(0, deadline - time.monotonic()))
            self._pending.popleft()

    def forget(self, keys: Iterable[FeatureKey]) -> None:
        """Forget the keys of computed features; `is_stored` must be true for them from now on."""
        self._in_progress.difference_update(keys)

    def _list_missing(self, image: ImageRow, content_hash: bytes) -> list[int]:
        views = list_views(image.split, self._config.views)
        return [view for view in views if not self._is_stored(FeatureKey(content_hash, view))]

    def _group(self, images: Iterator[LoadedImage], num_left: int) -> Generator[_Batch, None, None]:
        """Group pictures into batches of `limit_batch` views or pictures, whichever is reached first."""
        group: list[LoadedImage] = []
        while True:
            started = time.monotonic()
            item = next(images, None)
            self.read_seconds += time.monotonic() - started
            if item is None:
                break
            group.append(item)
            num_views = num_left * self._config.views
            limit = limit_batch(self._config.effective_batch_size, num_views, self._backbone.streams.num_streams)
            if max(len(group), sum(len(loaded.views) for loaded in group)) >= limit:
                yield group, self._take_new_views(group)
                num_left -= len(group)
                group = []
        if group:
            yield group, self._take_new_views(group)

    def _take_new_views(self, group: Iterable[LoadedImage]) -> dict[FeatureKey, NDArray[np.float32]]:
        views = {FeatureKey(found.content_hash, view): found.views[view] for found in group for view in found.views}
        new = {key: view for key, view in views.items() if key not in self._in_progress and not self._is_stored(key)}
        self._in_progress.update(new)
        return new

    def _compute(self, batch: _Batch) -> ComputedBatch:
        loaded, new = batch
        outputs = []
        if new:
            for encoder, values in zip(self._encoders, self._backbone.run(np.stack(list(new.values()))), strict=True):
                features, statuses = self._backbone.round(values)
                outputs.append((encoder.encode_rows(features), statuses))
        for found in loaded:
            found.views = {}
        return ComputedBatch(loaded, list(new), outputs)
