"""One pass over the pictures that have to be read: reading, the backbone and the disk at the same time."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from extract.config import ExtractConfig
from extract.pixels import Pixels
from extract.reader import ImageReader, LoadedImage
from features.console import Console
from features.errors import HeadstartError
from features.schema import FeatureKey, FeatureStatus, ImageStatus, round_features
from features.tables import ImageRow
from features.writer import FeatureWriter

MAX_UNSOUND_SHARE = 0.001
BATCHES_AHEAD = 3
"""Given to the backbone before the first one's features are asked for: it has work while a shard is written."""


class Backbone(Protocol):
    """What the loop needs of the backbone."""

    @property
    def prepare(self) -> Callable[[Pixels], Any]:
        """From RGB pixels to what the backbone sees."""

    def run(self, images: list[Any]) -> NDArray[np.float32]:
        """Runs on prepared pictures; (n, *feature_shape)."""


@dataclass(frozen=True)
class _Batch:
    """Pictures that were read together, and the features to come of those that are new."""

    loaded: list[LoadedImage]
    keys: list[FeatureKey]
    features: Future[NDArray[np.float32]] | None


class ExtractionLoop:
    """Reads ahead in threads, runs the backbone in another, and writes in this one; rows keep the order."""

    def __init__(self, config: ExtractConfig, console: Console, writer: FeatureWriter, backbone: Backbone) -> None:
        """Takes what it works with; nothing starts before `run`."""
        self._config, self._console, self._writer, self._backbone = config, console, writer, backbone
        self._waits = {"reading and decoding": 0.0, "the backbone": 0.0, "the disk": 0.0}
        self._coming: set[FeatureKey] = set()
        self.num_computed = self.num_unsound = 0
        self.images_per_second = 0.0
        self.failed: list[dict[str, str]] = []

    @property
    def bottleneck(self) -> str:
        """What the others waited for longest."""
        return max(self._waits, key=lambda name: self._waits[name])

    def run(self, images: Sequence[ImageRow]) -> None:
        """Extracts pictures, in their order.

        Args:
            images: rows of the catalog whose content is not known.

        Raises:
            HeadstartError: too many unsound features, a bad picture under --strict, or a disk that refuses.
        """
        config = self._config
        self._max_unsound = MAX_UNSOUND_SHARE * len(images)
        threads = config.threads or os.cpu_count() or 1
        reader = ImageReader(
            config.images,
            self._backbone.prepare,
            _StoredHashes(self._writer),
            threads,
            num_ahead=config.batch_size * 2 + threads,
        )
        started = time.monotonic()
        with (
            self._console.progress("extract", len(images), "pictures") as progress,
            ThreadPoolExecutor(1, thread_name_prefix="backbone") as pool,
        ):
            pending: deque[_Batch] = deque()
            try:
                for loaded in self._group(reader.read(images)):
                    pending.append(self._start(loaded, pool))
                    if len(pending) >= BATCHES_AHEAD:
                        progress.advance(self._finish(pending.popleft()), f"limited by {self.bottleneck}")
                while pending:
                    progress.advance(self._finish(pending.popleft()), f"limited by {self.bottleneck}")
            finally:
                for batch in pending:
                    if batch.features:
                        batch.features.cancel()
                # Also when interrupted: what is computed is not thrown away.
                self._writer.commit()
        self.images_per_second = self.num_computed / max(time.monotonic() - started, 1e-9)

    def _group(self, items: Iterator[LoadedImage]) -> Iterator[list[LoadedImage]]:
        while True:
            with self._waiting("reading and decoding"):
                batch = list(islice(items, self._config.batch_size))
            if not batch:
                return
            yield batch

    def _start(self, loaded: list[LoadedImage], pool: ThreadPoolExecutor) -> _Batch:
        """Gives the backbone what is new in a batch."""
        new: dict[FeatureKey, Any] = {}
        for image in loaded:
            if image.pixels is not None and image.content_hash is not None:
                key = FeatureKey(image.content_hash, 0)
                if not self._writer.holds(key) and key not in self._coming:
                    new.setdefault(key, image.pixels)
        self._coming.update(new)
        return _Batch(loaded, list(new), pool.submit(self._backbone.run, list(new.values())) if new else None)

    def _finish(self, batch: _Batch) -> int:
        """Stores a batch's features and records its pictures; returns how many."""
        if batch.features:
            with self._waiting("the backbone"):
                values = batch.features.result()
            rounded, statuses = round_features(values)
            with self._waiting("the disk"):
                self._writer.add_features(batch.keys, rounded, statuses)
            self._coming.difference_update(batch.keys)
            self.num_computed += len(batch.keys)
            self._count_unsound(statuses)
        for loaded in batch.loaded:
            self._record(loaded)
        return len(batch.loaded)

    @contextmanager
    def _waiting(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self._waits[what] += time.monotonic() - started

    def _count_unsound(self, statuses: Sequence[FeatureStatus]) -> None:
        self.num_unsound += sum(status is not FeatureStatus.OK for status in statuses)
        if self.num_unsound > self._max_unsound:
            raise HeadstartError(
                self._config.store,
                f"at most {MAX_UNSOUND_SHARE:.1%} of the features with NaN, infinity or more than float16 holds",
                f"{self.num_unsound:,} of {self.num_computed:,}",
                "Check the weights; what is sound is kept, and the others are never trained on",
            )

    def _record(self, loaded: LoadedImage) -> None:
        if not loaded.failure:
            done = loaded.image._replace(content_hash=loaded.content_hash, status=ImageStatus.DONE)
            self._writer.add_image(done)
            return
        self.failed.append({"image": loaded.image.path, "reason": loaded.failure})
        self._writer.add_image(loaded.image._replace(status=ImageStatus.FAILED, reason=loaded.failure))
        if self._config.strict:
            raise HeadstartError(
                self._config.images / loaded.image.path,
                "a sound picture",
                loaded.failure,
                "Mend or remove it, or run without --strict",
            )


class _StoredHashes:
    """The content hashes that a writer holds, as a container for the reader."""

    def __init__(self, writer: FeatureWriter) -> None:
        self._writer = writer

    def __contains__(self, content_hash: object) -> bool:
        return isinstance(content_hash, bytes) and self._writer.holds(FeatureKey(content_hash, 0))
