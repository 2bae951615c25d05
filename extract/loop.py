"""Extract features in this process, and write them to the stores."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Protocol

from base.terminal import Console
from extract.config import ExtractConfig
from extract.counts import PictureCounts, describe_image
from extract.decoding.decode import DEFAULT_POLICY
from extract.decoding.policy import DecodePolicy
from extract.pipeline import Backbone, ComputedBatch, FeaturePipeline
from features.catalog.tables import ImageRow
from features.schema import FeatureKey
from features.store_writer import FeatureWriter


class Extraction(Protocol):
    """Interface of an extraction, in this process or by Ray."""

    counts: PictureCounts
    images_per_second: float
    rows_per_second: float

    def run(self, images: Sequence[ImageRow], max_bad: int) -> None:
        """Extract pictures; see `ExtractionLoop.run`."""


class ExtractionLoop:
    """Loop that computes features in threads, and writes them in the order of the pictures."""

    def __init__(
        self,
        config: ExtractConfig,
        console: Console,
        writers: Sequence[FeatureWriter],
        backbone: Backbone,
        policy: DecodePolicy = DEFAULT_POLICY,
    ) -> None:
        """Create the loop with one writer for each output of the backbone."""
        self._console, self._writers = console, writers
        encoders = [writer.encoder for writer in writers]
        self._pipeline = FeaturePipeline(config, backbone, encoders, self._is_stored, policy)
        self._started = self._write_seconds = 0.0
        self.counts = PictureCounts(config, writers)
        self.images_per_second = self.rows_per_second = 0.0

    @property
    def bottleneck(self) -> str:
        """Name of the slowest part: the one for which the others waited longest."""
        read, write = self._pipeline.read_seconds, self._write_seconds
        backbone = time.monotonic() - self._started - read - write
        waits = {"reading and decoding": read, "the backbone": backbone, "the disk": write}
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
        self.counts.max_bad, self._started = max_bad, time.monotonic()
        if not images:
            self.counts.check()
            return
        with ExitStack() as commits, self._console.progress("extract", len(images), "pictures") as progress:
            # Commit even after an interrupt, and to every store even if a commit to another fails.
            for writer in self._writers:
                commits.callback(writer.commit)
            with self._pipeline.start(images) as batches:
                try:
                    for done in batches:
                        self._store(done)
                        progress.advance(len(done.images), f"limited by {self.bottleneck}")
                except KeyboardInterrupt:
                    with suppress(Exception):
                        for done in self._pipeline.finish():
                            self._store(done)
                    raise
        seconds = max(time.monotonic() - self._started, 1e-9)
        self.images_per_second = self.counts.num_computed / seconds
        self.rows_per_second = self.counts.num_rows / len(self._writers) / seconds

    def _is_stored(self, key: FeatureKey) -> bool:
        return all(writer.holds(key) for writer in self._writers)

    def _store(self, batch: ComputedBatch) -> None:
        """Store a batch. Storing it again, as can happen after an interrupt, has no effect."""
        keys, started = batch.keys, time.monotonic()
        for writer, (rows, statuses) in zip(self._writers, batch.outputs, strict=bool(keys)):
            new = [n for n, key in enumerate(keys) if not writer.holds(key)]
            writer.add_rows([keys[n] for n in new], [rows[n] for n in new], [statuses[n] for n in new])
            self.counts.num_rows += len(new)
        self._write_seconds += time.monotonic() - started
        self._pipeline.forget(keys)
        contents = {key.content_hash for key in keys}
        for loaded in batch.images:
            self.counts.record(loaded, contents)
            for writer in self._writers:
                writer.add_image(describe_image(loaded))
        self.counts.check()
