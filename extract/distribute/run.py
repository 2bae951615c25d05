"""Extract features with Ray: workers compute and write shards, and this process commits them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import ModuleType

import numpy as np

from base.cluster import OWN, open_ray
from base.errors import HeadstartError, UsageError
from base.lock import LOCK_NAME
from base.progress import ProgressBar
from base.terminal import Console, format_count
from extract.config import ExtractConfig
from extract.counts import BadPicturesError, PictureCounts, describe_image
from extract.cut_backbone import CutBackbone
from extract.decoding.policy import DecodePolicy
from extract.distribute.pool import Task, WorkerPool
from extract.distribute.worker import TaskResult, WorkerSetup, describe_features
from extract.engines import count_cores
from extract.pipeline import limit_batch
from extract.views import list_views
from features.catalog.tables import ImageRow
from features.store_writer import FeatureWriter

SMALLEST_TASK = 64
"""Number of features down to which the last tasks become smaller, so that all workers end at about the same time."""
SECONDS_TO_FINISH = 5.0
"""Time after an interrupt in which the workers may finish and write their current batches."""


class RayExtraction:
    """Extraction by the workers of Ray. A task becomes one shard in each store."""

    def __init__(
        self,
        config: ExtractConfig,
        console: Console,
        writers: Sequence[FeatureWriter],
        backbone: CutBackbone,
        policy: DecodePolicy,
    ) -> None:
        """Create the extraction with one writer for each output of the backbone; Ray is started by `run`."""
        self._config, self._console, self._writers = config, console, writers
        self._backbone, self._policy = backbone, policy
        self._waiting: list[ImageRow] = []
        self._num_views_left = self._num_workers = 0
        self.counts = PictureCounts(config, writers)
        self.images_per_second = self.rows_per_second = 0.0

    def run(self, images: Sequence[ImageRow], max_bad: int) -> None:
        """Extract pictures; see `ExtractionLoop.run`. The tasks are in the given order, but end in any order.

        Raises:
            BadPicturesError: more pictures are unusable, or more have NaN, infinity or overflow.
            UsageError: no node has the number of cores of a worker.
            HeadstartError: Ray does not answer, or a worker failed; see `WorkerPool.run`.
        """
        self.counts.max_bad = max_bad
        if not images:
            self.counts.check()
            return
        self._waiting = list(reversed(images))
        self._num_views_left = sum(map(self._count_views, images))
        num_cores = max(1, self._config.threads)
        with open_ray("--distribute", self._config.distribute, count_cores(0)) as ray:
            num_slots = count_slots(ray, self._config, num_cores)
            self._num_workers = min(num_slots, -(-self._num_views_left // SMALLEST_TASK))
            workers, cores = format_count(self._num_workers, "worker"), format_count(num_cores, "core")
            self._console.info(f"Ray: starting {workers} with {cores} each")
            expected = describe_features(self._config, self._backbone, self._policy)
            with WorkerPool(ray, self._build_setup(num_cores), expected, self._num_workers) as pool:
                # As in this process, the start-up does not count in the rate.
                pool.wait_for_worker()
                started = time.monotonic()
                with self._console.progress("extract", len(images), "pictures") as progress:
                    self._run_tasks(pool, progress)
                seconds = max(time.monotonic() - started, 1e-9)
        self.images_per_second = self.counts.num_computed / seconds
        self.rows_per_second = self.counts.num_rows / len(self._writers) / seconds

    def _build_setup(self, num_cores: int) -> WorkerSetup:
        # The current folder of a worker is another one.
        config = replace(self._config, threads=num_cores, images=self._config.images.absolute())
        encoders = [replace(writer.encoder, store=writer.folder.absolute()) for writer in self._writers]
        weights = self._backbone.weights
        return WorkerSetup(
            config,
            self._policy,
            weights,
            np.fromfile(weights.path, np.uint8) if weights.path else None,
            dict(self._backbone.quantized),
            encoders,
            [writer.stored for writer in self._writers],
            (self._writers[0].folder / LOCK_NAME).read_text(errors="replace"),
        )

    def _run_tasks(self, pool: WorkerPool, progress: ProgressBar) -> None:
        show = partial(self._show, pool, progress)
        try:
            for result in pool.run(self._take_task, self._reserve_numbers, show):
                self._commit(result)
                show()
                self.counts.check()
        except (KeyboardInterrupt, BadPicturesError):
            with suppress(Exception):
                for result in pool.finish(SECONDS_TO_FINISH):
                    self._commit(result)
            raise

    def _show(self, pool: WorkerPool, progress: ProgressBar) -> None:
        num_done = self.counts.num_done + pool.num_in_progress
        progress.advance(num_done - progress.num_done, f"by {format_count(pool.num_ready, 'worker')}")

    def _take_task(self) -> Task | None:
        """Return the next pictures: those of a whole shard, and fewer at the end."""
        size = min(writer.encoder.rows_per_shard for writer in self._writers)
        size = limit_batch(size, self._num_views_left, self._num_workers, SMALLEST_TASK)
        images: list[ImageRow] = []
        num_views = 0
        while self._waiting and (not images or num_views + self._count_views(self._waiting[-1]) <= size):
            images.append(self._waiting.pop())
            num_views += self._count_views(images[-1])
        self._num_views_left -= num_views
        return Task(images) if images else None

    def _count_views(self, image: ImageRow) -> int:
        return len(list_views(image.split, self._config.views))

    def _reserve_numbers(self) -> list[int]:
        return [writer.reserve_number() for writer in self._writers]

    def _commit(self, result: TaskResult) -> None:
        """Commit the shards of a task with its pictures."""
        contents: set[bytes] = set()
        rows = [describe_image(loaded) for loaded in result.images]
        for position, writer in enumerate(self._writers):
            for row in rows:
                writer.add_image(row)
            if result.shards:
                written = result.shards[position]
                contents |= {key.content_hash for key in written.keys if not writer.holds(key)}
                self.counts.num_rows += writer.commit_shard(*written)
            else:
                writer.commit()
        for loaded in result.images:
            self.counts.record(loaded, contents)


def count_slots(ray: ModuleType, config: ExtractConfig, num_cores: int) -> int:
    """Return the number of workers that the nodes of a cluster have cores for."""
    sizes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    num_slots = sum(size // num_cores for size in sizes)
    if not num_slots:
        where = f"--distribute {config.distribute} --threads {config.threads}"
        expected, got = f"a node with {format_count(num_cores, 'core')}", f"at most {max(sizes, default=0)}"
        if config.distribute == OWN:
            raise UsageError(where, expected, got, "Give fewer --threads")
        raise HeadstartError(where, expected, got, "Give fewer --threads, or add nodes to the cluster")
    return num_slots
