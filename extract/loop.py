"""One pass over the pictures that have to be read: reading, the backbone and the disk at the same time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from base.errors import HeadstartError
from base.terminal import Console
from extract.config import ExtractConfig
from extract.decode import Pixels
from extract.engines import Streams
from extract.reader import ImageReader, LoadedImage
from extract.views import Prepared, list_views
from features.catalog.tables import ImageRow
from features.schema import FeatureKey, Features, FeatureStatus, ImageStatus, round_features
from features.writer import FeatureWriter

BATCHES_WAITING = 2
"""Given to the backbone beyond those that it works on: it has work while a shard is written."""

Rounded = tuple[Features, list[FeatureStatus]]


class BadPicturesError(HeadstartError):
    """More pictures of the folder are bad than may be."""


class Backbone(Protocol):
    """What the loop needs of the backbone."""

    @property
    def streams(self) -> Streams:
        """How many batches it takes at a time."""

    @property
    def prepare(self) -> Callable[[Pixels, bytes, Iterable[int]], Prepared]:
        """From RGB pixels, content hash and the numbers of views to what the backbone sees."""

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Runs on prepared pictures; for each cut (n, *feature_shape)."""


@dataclass(frozen=True)
class _Batch:
    """Pictures that were read together, and the features to come of those that are new."""

    loaded: list[LoadedImage]
    keys: list[FeatureKey]
    features: Future[list[Rounded]] | None


class ExtractionLoop:
    """Reads ahead in threads, runs the backbone in others, and writes in this one; rows keep the order."""

    def __init__(
        self, config: ExtractConfig, console: Console, writers: Sequence[FeatureWriter], backbone: Backbone
    ) -> None:
        """Takes what it works with, a writer for each of the backbone's outputs; nothing starts before `run`."""
        self._config, self._console, self._writers, self._backbone = config, console, writers, backbone
        self._waits = {"reading and decoding": 0.0, "the backbone": 0.0, "the disk": 0.0}
        self._coming: set[FeatureKey] = set()
        self._contents: set[bytes] = set()
        self._num_rows = self._max_bad = 0
        self.num_done = self.num_computed = self.num_duplicates = 0
        """Pictures that were processed; those of which something was computed; copies of those."""
        self.images_per_second = self.rows_per_second = 0.0
        self.failed: list[dict[str, str]] = []
        self.unsound: list[str] = []
        """Pictures of which a feature has NaN, infinity or more than float16 holds, so that it is not trained on."""

    @property
    def bottleneck(self) -> str:
        """What the others waited for longest."""
        return max(self._waits, key=lambda name: self._waits[name])

    def run(self, images: Sequence[ImageRow], max_bad: int) -> None:
        """Extracts pictures, in their order.

        Args:
            images: rows of the catalog of which something is not stored.
            max_bad: how many of the folder's pictures may be bad.

        Raises:
            BadPicturesError: more are, or more have features that are not to be trained on.
            HeadstartError: a disk that refuses, or an engine that failed.
        """
        self._max_bad = max_bad
        if not images:
            self._check_bad()
            return
        config, num_streams = self._config, self._backbone.streams.num_streams
        reader = ImageReader(
            config.images,
            self._backbone.prepare,
            self._list_missing,
            self._backbone.streams.num_cores,
            num_ahead=-(-2 * config.num_at_once // config.views) + self._backbone.streams.num_cores,
            max_pixels=config.max_pixels,
        )
        started = time.monotonic()
        with (
            self._console.progress("extract", len(images), "pictures") as progress,
            ThreadPoolExecutor(num_streams, thread_name_prefix="backbone") as pool,
        ):
            pending: deque[_Batch] = deque()
            try:
                for loaded in self._group(reader.read(images)):
                    pending.append(self._start(loaded, pool))
                    if len(pending) >= num_streams + BATCHES_WAITING:
                        progress.advance(self._finish(pending), f"limited by {self.bottleneck}")
                while pending:
                    progress.advance(self._finish(pending), f"limited by {self.bottleneck}")
            except KeyboardInterrupt:
                # The backbone ends what it has begun with in any case: without this, a run of a few seconds keeps
                # nothing, since the first batches are stored only when later ones have been given to the backbone.
                self._finish_begun(pending)
                raise
            finally:
                for batch in pending:
                    if batch.features:
                        batch.features.cancel()
                # Also when interrupted, and each also where another fails: what was handed over is not thrown away.
                with ExitStack() as commits:
                    for writer in self._writers:
                        commits.callback(writer.commit)
        seconds = max(time.monotonic() - started, 1e-9)
        self.images_per_second = self.num_computed / seconds
        self.rows_per_second = self._num_rows / len(self._writers) / seconds

    def _list_missing(self, image: ImageRow, content_hash: bytes) -> list[int]:
        """Lists the views of a picture that not every writer holds."""
        views = list_views(image.split, self._config.views)
        return [view for view in views if not self._is_held(FeatureKey(content_hash, view))]

    def _is_held(self, key: FeatureKey) -> bool:
        return all(writer.holds(key) for writer in self._writers)

    def _group(self, items: Iterator[LoadedImage]) -> Iterator[list[LoadedImage]]:
        """Groups pictures until they have a batch of views, or are as many as a batch."""
        group: list[LoadedImage] = []
        while True:
            with self._waiting("reading and decoding"):
                item = next(items, None)
            if item is not None:
                group.append(item)
            num_views = sum(len(loaded.views) for loaded in group)
            if group and (item is None or max(len(group), num_views) >= self._config.num_at_once):
                yield group
                group = []
            if item is None:
                return

    def _start(self, loaded: list[LoadedImage], pool: ThreadPoolExecutor) -> _Batch:
        """Gives the backbone what is new in a batch."""
        new: dict[FeatureKey, NDArray[np.float32]] = {}
        for image in loaded:
            for view, prepared in image.views.items():
                key = FeatureKey(image.content_hash or b"", view)
                if key not in self._coming and not self._is_held(key):
                    new.setdefault(key, prepared)
        self._coming.update(new)
        return _Batch(loaded, list(new), pool.submit(self._compute, list(new.values())) if new else None)

    def _compute(self, prepared: list[NDArray[np.float32]]) -> list[Rounded]:
        return [round_features(values) for values in self._backbone.run(np.stack(prepared))]

    def _finish_begun(self, pending: deque[_Batch]) -> None:
        """Stores those first batches that the backbone is done with, or is working on."""
        for batch in pending:
            if batch.features:
                batch.features.cancel()
        with suppress(Exception):
            while pending and not (pending[0].features and pending[0].features.cancelled()):
                self._finish(pending)

    def _finish(self, pending: deque[_Batch]) -> int:
        """Stores the first batch's features and records its pictures; returns how many."""
        batch = pending[0]
        if batch.features:
            with self._waiting("the backbone"):
                computed = batch.features.result()
            with self._waiting("the disk"):
                for writer, (features, statuses) in zip(self._writers, computed, strict=True):
                    rows = [row for row, key in enumerate(batch.keys) if not writer.holds(key)]
                    writer.add_features(
                        [batch.keys[row] for row in rows], features[rows], [statuses[row] for row in rows]
                    )
                    self._num_rows += len(rows)
            self._coming.difference_update(batch.keys)
        computed_now = {key.content_hash for key in batch.keys}
        for loaded in batch.loaded:
            self._record(loaded, computed_now)
        # Taken off only now: an interruption before it lets the batch be stored once more, which changes nothing.
        pending.popleft()
        self._check_bad()
        return len(batch.loaded)

    @contextmanager
    def _waiting(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self._waits[what] += time.monotonic() - started

    def note_unsound(self, image: ImageRow, content_hash: bytes) -> None:
        """Notes a picture if one of its stored features is not to be trained on."""
        keys = [FeatureKey(content_hash, view) for view in list_views(image.split, self._config.views)]
        statuses = {writer.read_status(key) for writer in self._writers for key in keys}
        if statuses - {FeatureStatus.OK, None}:
            self.unsound.append(image.path)

    def _record(self, loaded: LoadedImage, computed_now: set[bytes]) -> None:
        self.num_done += 1
        if loaded.content_hash and not loaded.failure:
            if loaded.content_hash in self._contents:
                self.num_duplicates += 1
            elif loaded.content_hash in computed_now:
                self._contents.add(loaded.content_hash)
                self.num_computed += 1
            self.note_unsound(loaded.image, loaded.content_hash)
            self._enter(loaded.image._replace(content_hash=loaded.content_hash, status=ImageStatus.DONE))
            return
        self.failed.append({"image": loaded.image.path, "reason": loaded.failure})
        self._enter(loaded.image._replace(content_hash=None, status=ImageStatus.FAILED, reason=loaded.failure))

    def _check_bad(self) -> None:
        """Raise BadPicturesError where more pictures are bad than may be."""
        if len(self.failed) > self._max_bad:
            last = self.failed[-1]
            raise BadPicturesError(
                self._config.images,
                f"at most {self._max_bad:,} bad pictures",
                f"{len(self.failed):,}, the last of them {last['image']}: {last['reason']}",
                "Repair or move them, or allow a larger share with --max-bad (MAX_BAD=); what is extracted is kept",
            )
        if len(self.unsound) > self._max_bad:
            raise BadPicturesError(
                self._config.store,
                f"at most {self._max_bad:,} pictures whose features have NaN, infinity or more than float16 holds",
                f"{len(self.unsound):,}, the last of them {self.unsound[-1]}",
                "Check the weights, or allow more with --max-bad (MAX_BAD=); the other features are kept, and can be "
                "trained on",
            )

    def _enter(self, image: ImageRow) -> None:
        for writer in self._writers:
            writer.add_image(image)
