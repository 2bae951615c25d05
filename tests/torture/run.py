"""Torture test of a store: kills, failing calls, power cuts and flipped bytes, each followed by a resumed run.

`make torture` runs all trials, and the tests run a small part; both preload `faults.c`. Each trial runs in a forked
child, so that crashes are detected.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from base.errors import FeatureStoreError, StoreWriteError
from features.catalog.catalog import CATALOG_NAME
from features.maintenance.check import find_problems
from features.shards.shard import SHARD_FOLDER
from tests.features.stores import flip_byte
from tests.torture.power_cut import cut_power, list_disk, read_log
from tests.torture.trials import KILL, KILL_HALF_WRITTEN, Trials, parse_arguments
from tests.torture.workload import (
    NUM_BEFORE,
    NUM_ROWS,
    extend_store,
    extract_pictures,
    find_differences,
    find_losses,
    resume_and_verify,
)

NUM_ROWS_POWER_CUT = 24


@dataclass
class Results:
    """Numbers of trials, and failures found; without failures the lists are empty."""

    io_calls: int = 0
    kills_at_calls: int = 0
    kills_at_random_times: int = 0
    kills_in_extraction: int = 0
    failed_calls: int = 0
    power_cuts: int = 0
    byte_flips: int = 0
    flips_found: int = 0
    flips_unused: int = 0
    """Flips of unused bytes of the catalog: all values were read correctly."""
    crashes: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Torture:
    """Trials on stores in one scratch folder."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._store = scratch / "store"
        self._start = scratch / "start"
        self._trials = Trials(scratch, self._store)
        extend_store(self._start, NUM_BEFORE, lambda _: None)
        self.results = Results(crashes=self._trials.crashes, violations=self._trials.violations)

    def count_calls(self) -> int:
        """Count the calls of a run without faults."""
        self._reset()
        self.results.io_calls = self._trials.count_calls(lambda: extend_store(self._store, NUM_ROWS, lambda _: None))
        return self.results.io_calls

    def kill_at(self, call: int, kind: int) -> None:
        """Kill a run before or during an input/output call, and resume the run."""
        self._reset()

        def run(safe: Callable[[int], None]) -> None:
            self._trials.arm(call, kind)
            extend_store(self._store, NUM_ROWS, safe)

        self._fork(run)
        self._resume(f"kill at call {call}, kind {kind}")
        self.results.kills_at_calls += 1

    def kill_after(self, seconds: float) -> None:
        """Kill a run after some seconds, and resume the run."""
        self._reset()
        self._fork(lambda safe: extend_store(self._store, NUM_ROWS, safe), kill_after=seconds)
        self._resume(f"kill after {seconds:.4f} s")
        self.results.kills_at_random_times += 1

    def kill_extraction(self, num_kills: int) -> None:
        """Kill an extraction and its resumed runs, complete it, and compare it with an uninterrupted one."""
        whole = self._scratch / "whole"
        self._trials.expect_success("extraction", lambda: extract_pictures(whole))
        rng = random.Random(2)

        def extract(*fault: int) -> None:
            if fault:
                self._trials.arm(*fault)
            extract_pictures(self._scratch)

        def complete() -> None:
            extract()
            if differences := find_differences(self._store, whole / "store"):
                raise AssertionError(f"after {self.results.kills_in_extraction} kills: {differences}")

        shutil.rmtree(self._store, ignore_errors=True)
        while self.results.kills_in_extraction < num_kills:
            fault = rng.randrange(1, 60), (KILL, KILL_HALF_WRITTEN)[self.results.kills_in_extraction % 2]
            if self._trials.fork(partial(extract, *fault)) == -signal.SIGKILL:
                self.results.kills_in_extraction += 1
            else:
                # The extraction ended before this call. Start again.
                self._trials.expect_success("complete", complete)
                shutil.rmtree(self._store)
        self._trials.expect_success("complete", complete)

    def fail(self, call: int, error: int, *, is_permanent: bool) -> None:
        """Make one call fail, or also all later ones, and resume; the run must raise StoreWriteError or succeed."""
        self._reset()
        name = f"{errno.errorcode[error]} at call {call}{' and after' if is_permanent else ''}"

        def run(safe: Callable[[int], None]) -> None:
            self._trials.arm(call, error, is_permanent=is_permanent)
            try:
                extend_store(self._store, NUM_ROWS, safe)
            except StoreWriteError:
                os._exit(3)

        status = self._fork(run)
        if status not in (0, 3):
            self.results.violations.append(f"{name}: exit status {status}")
        self._resume(name)
        self.results.failed_calls += 1

    def cut_power_everywhere(self, seeds: list[int | None], step: int) -> None:
        """Record a run, and resume it after a power cut at every `step`-th call."""
        self._reset()
        log = self._scratch / "log"
        before = list_disk(self._store)

        def run() -> None:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            self._trials.arm(0, 0, log=descriptor)
            extend_store(self._store, NUM_ROWS_POWER_CUT, self._trials.mark)
            self._trials.disarm()

        self._trials.fork(run)
        calls = read_log(log)
        for end in range(1, len(calls) + 1, step):
            safe = max([NUM_BEFORE, *(call.offset for call in calls[:end] if call.operation == "A")])
            for seed in seeds:
                rng = None if seed is None else random.Random(seed * 100_003 + end)
                disk = cut_power(before, calls[:end], rng)
                shutil.rmtree(self._store)
                for path, data in disk.items():
                    Path(path).parent.mkdir(parents=True, exist_ok=True)
                    Path(path).write_bytes(data)
                (self._store / SHARD_FOLDER).mkdir(parents=True, exist_ok=True)
                self._resume(f"power cut after call {end}, seed {seed}", safe, NUM_ROWS_POWER_CUT)
                self.results.power_cuts += 1

    def flip_bytes(self, count: int) -> None:
        """Flip single bytes; `check --read-data` must detect it if the byte is used, and no wrong value may be read."""
        extend_store(self._start, NUM_ROWS, lambda _: None)
        files = [CATALOG_NAME, *(f"{SHARD_FOLDER}/{p.name}" for p in sorted((self._start / SHARD_FOLDER).iterdir()))]
        rng = random.Random(0)
        before, unused = len(self.results.violations), self._scratch / "unused"
        for trial in range(count):
            self._reset()
            path = self._store / files[trial % len(files)]
            position, mask = rng.randrange(path.stat().st_size), rng.randrange(1, 256)
            flip_byte(path, position, mask)
            name = f"byte {position} of {path.name} ^ {mask:#x}"

            def check(name: str = name, is_catalog: bool = path.name == CATALOG_NAME) -> None:
                is_found = bool(find_problems(self._store, read_data=True, images=None, advance=lambda _: None))
                try:
                    losses = find_losses(self._store, NUM_ROWS)
                except FeatureStoreError as error:
                    losses = [] if is_found else [f"not detected by check: {error}"]
                if losses or not (is_found or is_catalog):
                    raise AssertionError(f"{name}: {losses or 'not detected'}")
                if not is_found:
                    unused.touch()

            self._trials.expect_success(name, check)
            self.results.byte_flips += 1
            self.results.flips_unused += unused.exists()
            unused.unlink(missing_ok=True)
        num_violations = len(self.results.violations) - before
        self.results.flips_found = count - num_violations - self.results.flips_unused

    def _reset(self) -> None:
        shutil.rmtree(self._store, ignore_errors=True)
        shutil.copytree(self._start, self._store)
        (self._scratch / "safe").write_text(str(NUM_BEFORE))

    def _resume(self, name: str, safe: int | None = None, num_rows: int = NUM_ROWS) -> None:
        num_safe = int((self._scratch / "safe").read_text() or 0) if safe is None else safe

        def resume() -> None:
            problems = resume_and_verify(self._store, num_safe, num_rows)
            if problems:
                raise AssertionError(f"{name}: {problems}")

        self._trials.expect_success(name, resume)

    def _fork(self, function: Callable[[Callable[[int], None]], object], kill_after: float | None = None) -> int:
        """Call a function in a child; its argument is a function that acknowledges rows. Return the exit status."""
        safe = os.open(self._scratch / "safe", os.O_WRONLY)

        def acknowledge(count: int) -> None:
            os.pwrite(safe, f"{count:4}".encode(), 0)

        try:
            return self._trials.fork(lambda: function(acknowledge), kill_after)
        finally:
            os.close(safe)


def run_all(*, short: bool) -> Results:
    """Run every kind of trial; the short form runs a small part of the trials."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        torture = Torture(Path(folder).resolve())
        num_calls = torture.count_calls()
        rng = random.Random(1)
        step = 16 if short else 1
        for call in range(1, num_calls + 1, step):
            torture.kill_at(call, KILL)
            torture.kill_at(call, KILL_HALF_WRITTEN)
        for delay in _draw(rng, 4 if short else 200):
            torture.kill_after(delay)
        for call in range(1, num_calls + 1, step):
            for error in (errno.ENOSPC, errno.EIO, errno.EFBIG):
                torture.fail(call, error, is_permanent=False)
            torture.fail(call, errno.ENOSPC, is_permanent=True)
        torture.cut_power_everywhere([None, 1] if short else [None, 1, 2], step=20 if short else 1)
        torture.flip_bytes(20 if short else 600)
        torture.kill_extraction(8 if short else 200)
    torture.results.seconds = round(time.monotonic() - started, 1)
    return torture.results


def _draw(rng: random.Random, count: int) -> Iterator[float]:
    return (rng.uniform(0.0, 0.12) for _ in range(count))


if __name__ == "__main__":
    parts, is_short = parse_arguments(["store"])
    if parts:
        results = run_all(short=is_short)
        print(json.dumps(asdict(results), indent=2))
        sys.exit(bool(results.crashes or results.violations))
