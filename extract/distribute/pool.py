"""Workers of Ray that compute the tasks of a distributed extraction, and are replaced if they are lost."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from base.errors import HeadstartError
from base.terminal import format_count
from extract.distribute.worker import TaskResult, Worker, WorkerIdentity, WorkerSetup
from features.catalog.tables import ImageRow

MAX_LOST = 3
"""Number of workers that a task, or the start of workers, may lose before the run fails."""
POLL_S = 0.5
"""Time between two updates of the progress."""
_MAX_REASON = 300
"""Largest number of characters of the reason in an error, which Ray may make very long."""


class WorkerLostError(HeadstartError):
    """Workers that ended again and again, for example without enough memory."""


class WrongWorkerError(HeadstartError):
    """Worker that would compute other features than the others."""


@dataclass
class Task:
    """Pictures that a worker computes together, and that become one shard in each store."""

    images: Sequence[ImageRow]
    num_lost: int = 0
    """Number of workers that were lost during the task."""


@dataclass
class _Job:
    """Call of a worker that has not returned."""

    worker: Any
    task: Task | None
    """None while the worker starts."""
    num_done: int = 0
    """Number of pictures that the worker reported."""


class WorkerPool:
    """Pool of Ray actors, as a context manager that ends them. It is used once.

    Ray neither restarts an actor nor repeats a call: a new worker must be checked first, and a repeated task needs a
    new number for its shard.
    """

    def __init__(self, ray: Any, setup: WorkerSetup, expected: Mapping[str, str], num_workers: int) -> None:
        """Start the workers; nothing waits for them.

        Args:
            ray: the module, connected to a cluster.
            setup: everything that the workers need.
            expected: the properties that each worker must have, from `describe_features`.
            num_workers: number of workers.
        """
        self._ray, self._expected = ray, expected
        options = {"num_cpus": setup.config.threads, "max_restarts": 0, "max_task_retries": 0, "max_concurrency": 2}
        self._class = ray.remote(**options, scheduling_strategy="SPREAD")(Worker)
        # One object for all workers of a computer.
        self._setup = ray.put(setup)
        self._jobs: dict[Any, _Job] = {}
        self._lost: deque[Task] = deque()
        self._num_failed_starts = 0
        self.num_ready = 0
        """Number of workers that are ready or busy."""
        for _ in range(num_workers):
            self._start_worker()

    def __enter__(self) -> WorkerPool:
        """Return the pool."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all workers at once; their shards without a commit are adopted by the next run."""
        for job in self._jobs.values():
            self._ray.kill(job.worker)

    def wait_for_worker(self) -> None:
        """Wait until a worker is ready, or has failed to start; without free cores in a cluster, this can take long."""
        self._ray.wait(list(self._jobs))

    @property
    def num_in_progress(self) -> int:
        """Number of pictures that are computed in tasks that have not ended."""
        return sum(job.num_done for job in self._jobs.values())

    def run(
        self, take: Callable[[], Task | None], reserve: Callable[[], list[int]], show: Callable[[], None]
    ) -> Iterator[TaskResult]:
        """Compute tasks, and yield their results in the order in which they end.

        Args:
            take: returns the next task, or None if there is none.
            reserve: returns new shard numbers for a task, one for each store.
            show: called every half second, and may read the progress.

        Raises:
            WorkerLostError: `MAX_LOST` workers were lost in the same task, or could not start.
            WrongWorkerError: a worker has other weights, options or packages than this process.
            HeadstartError: a worker cannot read or write, or its engine failed.
        """
        has_more = True
        # Workers that still wait for free cores are not needed after the last task.
        while has_more or self._lost or any(job.task for job in self._jobs.values()):
            ended, _ = self._ray.wait(list(self._jobs), timeout=POLL_S)
            if not ended:
                self._ask_progress()
                show()
            for call in ended:
                job, (value, has_ended) = self._jobs.pop(call), self._read(call)
                if has_ended:
                    self._replace(job, value)
                    continue
                if job.task is None:
                    self._check(value)
                else:
                    yield value
                task = self._lost.popleft() if self._lost else take()
                if task:
                    numbers = reserve()
                    self._jobs[job.worker.extract.remote(task.images, numbers)] = _Job(job.worker, task)
                else:
                    has_more = False
                    self._ray.kill(job.worker)
                    self.num_ready -= 1

    def finish(self, seconds: float) -> Iterator[TaskResult]:
        """Stop all tasks, and yield the results of those that end within some seconds."""
        busy = {call: job for call, job in self._jobs.items() if job.task}
        for job in busy.values():
            job.worker.stop.remote()
        deadline = time.monotonic() + seconds
        while busy and (left := deadline - time.monotonic()) > 0:
            ended, _ = self._ray.wait(list(busy), timeout=left)
            for call in ended:
                del busy[call]
                value, has_ended = self._read(call)
                if not has_ended:
                    yield value

    def _ask_progress(self) -> None:
        """Ask the workers how many pictures of their tasks are done; one that does not answer at once is left out."""
        asked = {job.worker.count_done.remote(): job for job in self._jobs.values() if job.task}
        answered, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=POLL_S) if asked else ([], [])
        for call in answered:
            value, has_ended = self._read(call)
            asked[call].num_done = asked[call].num_done if has_ended else value

    def _start_worker(self) -> None:
        worker = self._class.remote(self._setup)
        self._jobs[worker.start.remote()] = _Job(worker, None)

    def _read(self, call: Any) -> tuple[Any, bool]:
        """Return the result of a call, or the reason why its worker has ended, and whether it has ended."""
        from ray.exceptions import RayError, RayTaskError

        try:
            return self._ray.get(call), False
        except RayTaskError as error:
            if isinstance(error.cause, HeadstartError):
                raise error.cause from error
            raise
        except RayError as error:
            # The last line has the cause, after the name and the place of the worker.
            return str(error).strip().splitlines()[-1][:_MAX_REASON], True

    def _check(self, found: WorkerIdentity) -> None:
        self.num_ready += 1
        for name, value in self._expected.items():
            if found.properties.get(name) != value:
                raise WrongWorkerError(
                    f"worker on {found.node}",
                    f"{name} {value}, as here",
                    str(found.properties.get(name)),
                    "Install the same versions of all packages on every node",
                )

    def _replace(self, job: _Job, reason: str) -> None:
        """Start a worker in place of a lost one, and repeat its task."""
        if job.task:
            self.num_ready -= 1
            job.task.num_lost += 1
            self._lost.append(job.task)
        else:
            self._num_failed_starts += 1
        if max(self._num_failed_starts, job.task.num_lost if job.task else 0) >= MAX_LOST:
            place = f"a task of {format_count(len(job.task.images), 'picture')}" if job.task else "the start of workers"
            if job.task:
                place += f", first {job.task.images[0].path}"
            advice = "Give fewer workers more memory with --threads, or look for the cause in Ray's logs"
            raise WorkerLostError(
                "--distribute", "workers that keep running", f"{MAX_LOST} lost in {place}: {reason}", advice
            )
        self._start_worker()
