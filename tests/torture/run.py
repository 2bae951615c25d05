"""The torture: kills, failing calls, power cuts and flipped bytes, each followed by a resumption that must succeed.

Run by `make torture` (all of it) and by the tests (a short form), with `faults.c` preloaded. Every trial is a
forked child, so that a crash is seen as one.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from base.errors import FeatureStoreError, StoreWriteError
from features.catalog.catalog import CATALOG_NAME
from features.maintenance.check import find_problems
from features.shards.shard import SHARD_FOLDER
from tests.torture.power_cut import cut_power, list_disk, read_log
from tests.torture.trials import KILL, KILL_HALF_WRITTEN, Trials, parse_arguments
from tests.torture.workload import NUM_BEFORE, NUM_ROWS, extend_store, find_losses, resume_and_verify

NUM_ROWS_POWER_CUT = 24


@dataclass
class Figures:
    """What was done, and what went wrong; the lists stay empty."""

    io_calls: int = 0
    kills_at_calls: int = 0
    kills_at_random_times: int = 0
    failed_calls: int = 0
    power_cuts: int = 0
    byte_flips: int = 0
    flips_found: int = 0
    flips_unused: int = 0
    """In bytes of the catalog that nothing uses: every value was read as it was written."""
    signal_deaths: list[str] = field(default_factory=list)
    broken_promises: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Torture:
    """All trials on stores in one scratch folder."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._store = scratch / "store"
        self._start = scratch / "start"
        self._trials = Trials(scratch, self._store)
        extend_store(self._start, NUM_BEFORE, lambda _: None)
        self.figures = Figures(signal_deaths=self._trials.signal_deaths, broken_promises=self._trials.broken_promises)

    def count_calls(self) -> int:
        """Counts the calls of one run that is left alone."""
        self._reset()
        self.figures.io_calls = self._trials.count_calls(lambda: extend_store(self._store, NUM_ROWS, lambda _: None))
        return self.figures.io_calls

    def kill_at(self, call: int, kind: int) -> None:
        """Kills a run at one call, before it or with half of it written, and resumes."""
        self._reset()

        def act(safe: Callable[[int], None]) -> None:
            self._trials.arm(call, kind)
            extend_store(self._store, NUM_ROWS, safe)

        self._fork(act)
        self._resume(f"kill at call {call}, kind {kind}")
        self.figures.kills_at_calls += 1

    def kill_after(self, seconds: float) -> None:
        """Kills a run at some time, and resumes."""
        self._reset()
        self._fork(lambda safe: extend_store(self._store, NUM_ROWS, safe), kill_after=seconds)
        self._resume(f"kill after {seconds:.4f} s")
        self.figures.kills_at_random_times += 1

    def fail(self, call: int, error: int, *, from_then_on: bool) -> None:
        """Lets one call fail, or all from then on; the run must say so in its own words or not need the call."""
        self._reset()
        name = f"{errno.errorcode[error]} at call {call}{' and after' if from_then_on else ''}"

        def act(safe: Callable[[int], None]) -> None:
            self._trials.arm(call, error, from_then_on=from_then_on)
            try:
                extend_store(self._store, NUM_ROWS, safe)
            except StoreWriteError:
                os._exit(3)

        status = self._fork(act)
        if status not in (0, 3):
            self.figures.broken_promises.append(f"{name}: exit status {status}")
        self._resume(name)
        self.figures.failed_calls += 1

    def cut_power_everywhere(self, seeds: list[int | None], step: int) -> None:
        """Records one run, and tries every moment of it (or every so many) as its last."""
        self._reset()
        log = self._scratch / "log"
        before = list_disk(self._store)

        def act() -> None:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            self._trials.arm(0, 0, log=descriptor)
            extend_store(self._store, NUM_ROWS_POWER_CUT, self._trials.mark)
            self._trials.disarm()

        self._trials.fork(act)
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
                self.figures.power_cuts += 1

    def flip_bytes(self, count: int) -> None:
        """Flip one byte after another: `check --read-data` finds each that is used, and no value is read wrong."""
        extend_store(self._start, NUM_ROWS, lambda _: None)
        files = [CATALOG_NAME, *(f"{SHARD_FOLDER}/{p.name}" for p in sorted((self._start / SHARD_FOLDER).iterdir()))]
        rng = random.Random(0)
        before, unused = len(self.figures.broken_promises), self._scratch / "unused"
        for trial in range(count):
            self._reset()
            path = self._store / files[trial % len(files)]
            data = bytearray(path.read_bytes())
            position, mask = rng.randrange(len(data)), rng.randrange(1, 256)
            data[position] ^= mask
            path.write_bytes(data)
            name = f"byte {position} of {path.name} ^ {mask:#x}"

            def act(name: str = name, is_catalog: bool = path.name == CATALOG_NAME) -> None:
                is_found = bool(find_problems(self._store, read_data=True, images=None, advance=lambda _: None))
                try:
                    losses = find_losses(self._store, NUM_ROWS)
                except FeatureStoreError as error:
                    losses = [] if is_found else [f"not found by check: {error}"]
                if losses or not (is_found or is_catalog):
                    raise AssertionError(f"{name}: {losses or 'not found'}")
                if not is_found:
                    unused.touch()

            self._trials.expect_success(name, act)
            self.figures.byte_flips += 1
            self.figures.flips_unused += unused.exists()
            unused.unlink(missing_ok=True)
        num_broken = len(self.figures.broken_promises) - before
        self.figures.flips_found = count - num_broken - self.figures.flips_unused

    def _reset(self) -> None:
        shutil.rmtree(self._store, ignore_errors=True)
        shutil.copytree(self._start, self._store)
        (self._scratch / "safe").write_text(str(NUM_BEFORE))

    def _resume(self, name: str, safe: int | None = None, num_rows: int = NUM_ROWS) -> None:
        num_safe = int((self._scratch / "safe").read_text() or 0) if safe is None else safe

        def act() -> None:
            problems = resume_and_verify(self._store, num_safe, num_rows)
            if problems:
                raise AssertionError(f"{name}: {problems}")

        self._trials.expect_success(name, act)

    def _fork(self, act: Callable[[Callable[[int], None]], object], kill_after: float | None = None) -> int:
        """Acts in a child, which is given a function to acknowledge rows with; returns its exit status."""
        safe = os.open(self._scratch / "safe", os.O_WRONLY)

        def acknowledge(count: int) -> None:
            os.pwrite(safe, f"{count:4}".encode(), 0)

        try:
            return self._trials.fork(lambda: act(acknowledge), kill_after)
        finally:
            os.close(safe)


def run_all(*, short: bool) -> Figures:
    """Runs every kind of trial, a tenth of them in the short form."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        torture = Torture(Path(folder).resolve())
        num_calls = torture.count_calls()
        rng = random.Random(1)
        step = 9 if short else 1
        for call in range(1, num_calls + 1, step):
            torture.kill_at(call, KILL)
            torture.kill_at(call, KILL_HALF_WRITTEN)
        for delay in _draw(rng, 8 if short else 200):
            torture.kill_after(delay)
        for call in range(1, num_calls + 1, step):
            for error in (errno.ENOSPC, errno.EIO, errno.EFBIG):
                torture.fail(call, error, from_then_on=False)
            torture.fail(call, errno.ENOSPC, from_then_on=True)
        torture.cut_power_everywhere([None, 1] if short else [None, 1, 2], step=12 if short else 1)
        torture.flip_bytes(30 if short else 600)
    torture.figures.seconds = round(time.monotonic() - started, 1)
    return torture.figures


def _draw(rng: random.Random, count: int) -> Iterator[float]:
    return (rng.uniform(0.0, 0.12) for _ in range(count))


if __name__ == "__main__":
    parts, is_short = parse_arguments(["store"])
    if parts:
        figures = run_all(short=is_short)
        print(json.dumps(asdict(figures), indent=2))
        sys.exit(bool(figures.signal_deaths or figures.broken_promises))
