"""Extract features: read pictures, run the backbone and write features concurrently."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from itertools import chain
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from base.errors import HeadstartError
from base.terminal import Console, format_count
from extract.config import ExtractConfig
from extract.decoding.decode import DEFAULT_POLICY
from extract.decoding.memory import PixelMemory
from extract.decoding.policy import DecodePolicy
from extract.engines import Streams
from extract.load import LoadedImage, cancel, group_files, load_images, map_ahead, start_threads
from extract.views import Prepare, list_views
from features.catalog.tables import ImageRow
from features.schema import FeatureKey, Features, FeatureStatus, ImageStatus
from features.writer import FeatureWriter

SMALLEST_BATCH = 8
"""Number of pictures down to which the engine is as fast as with larger batches."""
BATCHES_WAITING = 4
"""Number of batches that wait for the backbone, so that it has work while the main thread writes a shard."""
SECONDS_TO_FINISH = 1.5
"""Time after an interrupt in which the backbone may finish its current batches."""


class BadPicturesError(HeadstartError):
    """Too many pictures are unusable, or have NaN, infinity or overflow in a feature."""


class Backbone(Protocol):
    """Interface of the backbone that the loop uses."""

    streams: Streams

    @property
    def prepare(self) -> Prepare:
        """Function that turns decoded pixels into views."""

    def run(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the features of each cut, (n, *feature_shape), for a batch of views."""

    def round(self, values: NDArray[np.float32]) -> tuple[Features, list[FeatureStatus]]:
        """Return the same as `round_features`."""


Batch = tuple[list[LoadedImage], dict[FeatureKey, NDArray[np.float32]]]
"""Pictures of a batch, and those of their views that are neither stored nor in an earlier batch."""
ComputedBatch = tuple[list[LoadedImage], list[FeatureKey], list[tuple[list[bytes], list[FeatureStatus]]]]
"""Pictures, keys of their new features, and the compressed features for each output of the backbone."""


def limit_batch(batch_size: int, num_left: int, num_streams: int) -> int:
    """Return the size of the next batch, with at most `num_left` views to go.

    With several streams, the last batches become smaller, so that all streams end at about the same time.
    """
    if num_streams == 1:
        return batch_size
    return min(batch_size, max(SMALLEST_BATCH, -(-num_left // (2 * num_streams))))


class ExtractionLoop:
    """Loop that reads pictures and runs the backbone in threads, and writes features in the order of the pictures."""

    def __init__(
        self,
        config: ExtractConfig,
        console: Console,
        writers: Sequence[FeatureWriter],
        backbone: Backbone,
        policy: DecodePolicy = DEFAULT_POLICY,
    ) -> None:
        """Create the loop with one writer for each output of the backbone."""
        self._policy = policy
        self._config, self._console, self._writers, self._backbone = config, console, writers, backbone
        self._started = self._read_seconds = self._write_seconds = 0.0
        self._in_progress: set[FeatureKey] = set()
        self._contents: set[bytes] = set()
        self._num_rows = self._max_bad = 0
        self.num_done = self.num_computed = self.num_duplicates = 0
        """Numbers of pictures: processed, newly computed, and byte-for-byte copies of newly computed ones."""
        self.images_per_second = self.rows_per_second = 0.0
        self.failed: list[dict[str, str]] = []
        self.unsound: list[str] = []
        """Paths of pictures with NaN, infinity or float16 overflow in a feature; excluded from training."""
        self.one_colour: list[str] = []
        self.low_contrast: list[str] = []
        """Paths of new pictures whose samples use less than a quarter of their range; not those of one colour."""

    @property
    def bottleneck(self) -> str:
        """Name of the slowest part: the one for which the others waited longest."""
        backbone = time.monotonic() - self._started - self._read_seconds - self._write_seconds
        waits = {"reading and decoding": self._read_seconds, "the backbone": backbone, "the disk": self._write_seconds}
        return max(waits, key=lambda name: waits[name])

    def run(self, images: Sequence[ImageRow], max_bad: int) -> None:
        """Extract pictures in the given order.

        Args:
            images: catalog rows of pictures with missing features.
            max_bad: largest accepted number of unusable pictures, and of pictures with NaN, infinity or overflow.

        Raises:
            BadPicturesError: more pictures are unusable, or more have NaN, infinity or overflow.
            HeadstartError: the disk refused a write, or the engine failed.
        """
        self._max_bad, self._started = max_bad, time.monotonic()
        if not images:
            self._check_bad()
            return
        streams, prepare = self._backbone.streams, self._backbone.prepare
        # A task reads a quarter of a batch, so that memory does not depend on the number of views.
        num_together = max(1, self._config.effective_batch_size // (4 * self._config.views))
        num_views = num_together * self._config.views
        num_ahead = -(-2 * self._config.effective_batch_size // num_views) + streams.num_cores
        pending: deque[Future[ComputedBatch]] = deque()
        memory = PixelMemory()

        def load(group: Sequence[ImageRow]) -> list[LoadedImage]:
            return load_images(group, self._config, prepare, self._list_missing, self._policy, memory)

        with (
            self._console.progress("extract", len(images), "pictures") as progress,
            start_threads(streams.num_streams, "backbone") as running,
            start_threads(streams.num_cores, "read") as reading,
        ):
            loaded = map_ahead(reading, load, group_files(images, num_together), num_ahead)
            batches = self._group(chain.from_iterable(loaded), len(images))
            try:
                for done in map_ahead(running, self._compute, batches, streams.num_streams + BATCHES_WAITING, pending):
                    self._store(done)
                    progress.advance(len(done[0]), f"limited by {self.bottleneck}")
            except KeyboardInterrupt:
                # Store the current batches of the backbone too: in a short run, no batch is stored yet, because a batch
                # is stored only after later ones have been submitted.
                cancel(pending)
                deadline = time.monotonic() + SECONDS_TO_FINISH
                with suppress(Exception):
                    while pending and not pending[0].cancelled():
                        self._store(pending[0].result(max(0, deadline - time.monotonic())))
                        pending.popleft()
                raise
            finally:
                cancel(pending)
                batches.close()
                loaded.close()
                # Commit even after an interrupt, and to every store even if a commit to another fails.
                with ExitStack() as commits:
                    for writer in self._writers:
                        commits.callback(writer.commit)
        seconds = max(time.monotonic() - self._started, 1e-9)
        self.images_per_second = self.num_computed / seconds
        self.rows_per_second = self._num_rows / len(self._writers) / seconds

    def _list_missing(self, image: ImageRow, content_hash: bytes) -> list[int]:
        views = list_views(image.split, self._config.views)
        return [view for view in views if not self._is_stored(FeatureKey(content_hash, view))]

    def _is_stored(self, key: FeatureKey) -> bool:
        return all(writer.holds(key) for writer in self._writers)

    def _group(self, images: Iterator[LoadedImage], num_left: int) -> Generator[Batch, None, None]:
        """Group pictures into batches of `limit_batch` views or pictures, whichever is reached first."""
        group: list[LoadedImage] = []
        while True:
            started = time.monotonic()
            item = next(images, None)
            self._read_seconds += time.monotonic() - started
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

    def _compute(self, batch: Batch) -> ComputedBatch:
        loaded, new = batch
        computed = []
        if new:
            for writer, values in zip(self._writers, self._backbone.run(np.stack(list(new.values()))), strict=True):
                features, statuses = self._backbone.round(values)
                computed.append((writer.encode(features), statuses))
        for found in loaded:
            found.views = {}
        return loaded, list(new), computed

    def _store(self, batch: ComputedBatch) -> None:
        """Store a batch. Storing it again, as can happen after an interrupt, has no effect."""
        loaded, keys, computed = batch
        started = time.monotonic()
        for writer, (rows, statuses) in zip(self._writers, computed, strict=bool(keys)):
            new = [n for n, key in enumerate(keys) if not writer.holds(key)]
            writer.add_rows([keys[n] for n in new], [rows[n] for n in new], [statuses[n] for n in new])
            self._num_rows += len(new)
        self._write_seconds += time.monotonic() - started
        self._in_progress.difference_update(keys)
        contents = {key.content_hash for key in keys}
        for image in loaded:
            self._record(image, contents)
        self._check_bad()

    def note_unsound(self, image: ImageRow, content_hash: bytes) -> None:
        """Add a picture to `unsound` if one of its stored features has NaN, infinity or overflow."""
        keys = [FeatureKey(content_hash, view) for view in list_views(image.split, self._config.views)]
        statuses = {writer.read_status(key) for writer in self._writers for key in keys}
        if statuses - {FeatureStatus.OK, None}:
            self.unsound.append(image.path)

    def _record(self, loaded: LoadedImage, computed_contents: set[bytes]) -> None:
        self.num_done += 1
        if loaded.failure:
            self.failed.append({"image": loaded.image.path, "reason": loaded.failure})
            row = loaded.image._replace(content_hash=None, status=ImageStatus.FAILED, reason=loaded.failure)
        else:
            if loaded.content_hash in self._contents:
                self.num_duplicates += 1
            elif loaded.content_hash in computed_contents:
                self._contents.add(loaded.content_hash)
                self.num_computed += 1
            self.note_unsound(loaded.image, loaded.content_hash)
            self.one_colour += [loaded.image.path] if loaded.is_one_colour else []
            self.low_contrast += [loaded.image.path] if loaded.has_low_contrast else []
            row = loaded.image._replace(content_hash=loaded.content_hash, status=ImageStatus.DONE)
        for writer in self._writers:
            writer.add_image(row)

    def _check_bad(self) -> None:
        if len(self.failed) > self._max_bad:
            last = self.failed[-1]
            raise BadPicturesError(
                self._config.images,
                f"at most {format_count(self._max_bad, 'unusable picture')}",
                f"{len(self.failed):,}, the last {last['image']} ({last['reason']})",
                "Repair or move them, or raise --max-bad, and run again; the features extracted so far are kept",
            )
        if len(self.unsound) > self._max_bad:
            raise BadPicturesError(
                self._config.store,
                f"at most {format_count(self._max_bad, 'picture')} with NaN, infinity or float16 overflow in a feature",
                f"{len(self.unsound):,}, the last {self.unsound[-1]}",
                "Check the weights, or raise --max-bad; the other features are kept",
            )
