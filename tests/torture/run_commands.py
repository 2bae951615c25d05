"""The torture of commands: signals at random moments, and a failing or last call at each of their calls.

Run by `make torture` (all of it) and by the tests (a short form), with `faults.c` preloaded. After each trial the old
result is there or the new one, whole; the same command again makes the new one; the user's files are as they were.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from tests.torture.commands import (
    NEW,
    NOTHING,
    OLD,
    THESIS,
    WORKLOADS,
    fill_in,
    require,
    run_command,
    run_to_end,
)
from tests.torture.stand_in import replace_backbone
from tests.torture.trials import KILL, STOPS, Trials, parse_arguments
from tests.torture.warm import import_all, simplify

NUM_WORKERS = 2
ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EMFILE)
CAUGHT = {signal.SIGTERM: {143}, signal.SIGINT: {130}, signal.SIGHUP: {129, 143}, signal.SIGKILL: set[int]()}
"""The exit statuses of a command that was interrupted."""


@dataclass
class Figures:
    """What was done to one command, and what came of it; the lists stay empty."""

    io_calls: int = 0
    signals_at_random_times: int = 0
    signals_at_calls: int = 0
    failed_calls: int = 0
    found: dict[str, int] = field(default_factory=dict)
    """After the trial, before the command ran again: nothing, the old result or the new one."""
    signal_deaths: list[str] = field(default_factory=list)
    broken_promises: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Trial:
    """One fault: an errno or minus a signal, at a call or, as a share of the whole time, at a moment."""

    kind: int
    call: int = 0
    moment: float = 0.0
    from_then_on: bool = False

    def __str__(self) -> str:
        """Describe it for the list of broken promises."""
        name = errno.errorcode[self.kind] if self.kind > 0 else signal.Signals(-self.kind).name
        if not self.call:
            return f"{name} at {self.moment:.3f} of the time"
        return f"{name} at call {self.call}{' and after' if self.from_then_on else ''}"


class CommandTorture:
    """All trials of one command in a scratch folder."""

    def __init__(self, name: str, scratch: Path) -> None:
        self.name, self._workload = name, WORKLOADS[name]
        self._scratch, self._work, self._start = scratch, scratch / "work", scratch / "start"
        self._trials = Trials(scratch, self._work)
        self._work.mkdir()
        self._trials.expect_success("preparing", self._prepare)
        require(not self._trials.broken_promises, f"{self._trials.broken_promises}, said {self._read_said()}")
        import_all((scratch / "modules").read_text().split())
        if self._workload.needs_process:
            replace_backbone()
        (self._start / THESIS).write_text("mine")
        started = time.monotonic()
        self.num_calls = self._trials.count_calls(self._run_to_end)
        self._seconds = time.monotonic() - started
        self.figures = Figures(
            self.num_calls, signal_deaths=self._trials.signal_deaths, broken_promises=self._trials.broken_promises
        )

    def _prepare(self) -> None:
        self._redirect()
        if self._workload.needs_process:
            replace_backbone()
        self._workload.prepare(self._work)
        shutil.copytree(self._work, self._start, symlinks=True)
        # The command itself, too, so that what it imports is known.
        self._run_to_end()
        (self._scratch / "modules").write_text("\n".join(list(sys.modules)))
        shutil.rmtree(self._work)
        shutil.copytree(self._start, self._work, symlinks=True)

    @cached_property
    def _process_seconds(self) -> float:
        """How long the command takes in a process of its own; the folder is as before."""
        started = time.monotonic()
        require(self._run_process(None) == 0, "the command alone does not succeed")
        seconds = time.monotonic() - started
        self._reset(has_thesis_inside=len(self._theses) > 1)
        return seconds

    def plan(self, *, short: bool) -> list[Trial]:
        """List all trials, or a small part of them."""
        rng = random.Random(self.name)
        num_kills = self._workload.num_kills
        if short:
            num_kills = 0 if self._workload.needs_process else 1
        stops = rng.sample(STOPS, len(STOPS))
        trials = [Trial(-stops[number % len(stops)], moment=rng.uniform(0, 1.1)) for number in range(num_kills)]
        for call in range(1, self.num_calls + 1, 1 if short else self._workload.call_step):
            errors = [*(Trial(error, call) for error in ERRORS), Trial(errno.ENOSPC, call, from_then_on=True)]
            signals = [Trial(KILL, call), Trial(-STOPS[1 + call // 3 % 3], call)]
            num_errors = self._workload.num_errors
            if short:
                at_call = [(errors + signals)[call % 7]] if call % (self.num_calls // 5 + 1) == 0 else []
            elif num_errors == len(errors):
                at_call = errors + signals
            else:
                at_call = [errors[(call * num_errors + number) % len(errors)] for number in range(num_errors)]
                at_call += [signals[call // 3 % 2]] if call % 3 == 0 else []
            trials += at_call
        return trials

    def try_one(self, number: int, trial: Trial) -> None:
        """Run the command with a fault, look at what is there, and run it again."""
        self._reset(has_thesis_inside=number % 2 == 0 and self._workload.start == OLD)
        (self._scratch / "said").write_text("")
        if trial.call:
            status = self._strike(trial)
        else:
            in_process = self._workload.needs_process or number % 5 == 4
            seconds = self._process_seconds if in_process else self._seconds
            moment = trial.moment * seconds, signal.Signals(-trial.kind)
            status = self._run_process(moment) if in_process else self._trials.fork(self._run, *moment)
        self._judge_status(trial, status)
        goes_on = not self._workload.needs_process or number % 4 == 0
        (found := self._scratch / "found").unlink(missing_ok=True)
        self._trials.expect_success(f"{trial}, status {status}", lambda: self._inspect(goes_on=goes_on))
        if found.exists():
            name = found.read_text()
            self.figures.found[name] = self.figures.found.get(name, 0) + 1
        if trial.kind > 0:
            self.figures.failed_calls += 1
        elif trial.call:
            self.figures.signals_at_calls += 1
        else:
            self.figures.signals_at_random_times += 1

    def _reset(self, *, has_thesis_inside: bool) -> None:
        shutil.rmtree(self._work, ignore_errors=True)
        shutil.copytree(self._start, self._work, symlinks=True)
        target = self._work / self._workload.target
        self._theses = [self._work / THESIS]
        if has_thesis_inside and target.is_dir():
            self._theses.append(target / THESIS)
            (target / THESIS).write_text("mine")

    def _run_process(self, moment: tuple[float, signal.Signals] | None) -> int:
        """Run the command in a process of its own, and send it a signal after some seconds."""
        words = fill_in(self._workload.command, self._work)
        stand_in = ["tests.torture.stand_in"] if self._workload.needs_process else []
        with (self._scratch / "said").open("wb") as said:
            child = subprocess.Popen([sys.executable, "-m", *stand_in, *words], stdout=said, stderr=said)
            if moment:
                time.sleep(moment[0])
                child.send_signal(moment[1])
            return child.wait()

    def _strike(self, trial: Trial) -> int:
        def act() -> None:
            self._trials.arm(trial.call, trial.kind, from_then_on=trial.from_then_on)
            self._run()

        return self._trials.fork(act)

    def _run(self) -> None:
        self._redirect()
        run_command(self._workload.command, self._work)

    def _run_to_end(self) -> None:
        self._redirect()
        try:
            run_to_end(self._workload.command, self._work)
        except AssertionError as error:
            raise AssertionError(f"{error}, said {self._read_said()[-400:]}") from None

    def _redirect(self) -> None:
        said = os.open(self._scratch / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)

    def _read_said(self) -> str:
        return (self._scratch / "said").read_text(errors="replace")

    def _judge_status(self, trial: Trial, status: int) -> None:
        said = self._read_said()
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        number = -trial.kind if trial.kind < 0 else 0
        if trial.kind > 0:
            is_right = status == 0 or (status == 1 and len(errors) == 1)
        else:
            # Before the command has begun, the system or Python ends the process.
            is_early = status == -number and not trial.call and self._list(self._work) == self._list(self._start)
            if is_early:
                return
            is_right = status in {0, *CAUGHT[signal.Signals(number)]} or status == -number == -signal.SIGKILL
        if status < 0 and status != -number:
            self.figures.signal_deaths.append(f"{trial}: signal {-status}")
        elif not is_right or "Traceback" in said:
            self.figures.broken_promises.append(f"{trial}: status {status}, said {said[-400:]}")

    def _inspect(self, *, goes_on: bool) -> None:
        """Require the old or the new result; where the trial goes on, the new one after the same command again."""
        found = self._workload.inspect(self._work)
        (self._scratch / "found").write_text(found)
        require(found in (self._workload.start, NEW), f"found {found}")
        self._require_theses()
        if not goes_on:
            return
        self._run_to_end()
        found = self._workload.inspect(self._work)
        require(found == NEW, f"again: found {found}")
        self._require_theses()
        # The lock's file stays until the next command that writes the target.
        hidden = [path for path in self._list(self._work) - self._list(self._start) if "/." in f"/{path}"]
        left = [path for path in hidden if not path.endswith(".lock")]
        require(not left, f"again: left {left}")

    def _require_theses(self) -> None:
        for thesis in self._theses:
            require(thesis.exists() and thesis.read_text() == "mine", f"{thesis} was touched")

    def _list(self, folder: Path) -> set[str]:
        """List the paths below a folder but the user's file in the target, which comes and goes."""
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != THESIS}


def run_share(names: list[str], worker: int, scratch: Path, *, short: bool) -> dict[str, Figures]:
    """Run one worker's share: of all commands its own trials, in the short form all trials of its own commands."""
    shares = {}
    num_sharing = 1 if short else NUM_WORKERS
    for name in names[worker::NUM_WORKERS] if short else names:
        started = time.monotonic()
        folder = scratch / f"{name}-{worker}"
        folder.mkdir()
        torture = CommandTorture(name, folder)
        for number, trial in enumerate(torture.plan(short=short)):
            if number % num_sharing == worker % num_sharing:
                torture.try_one(number // num_sharing, trial)
        torture.figures.seconds = round(time.monotonic() - started, 1)
        shares[name] = torture.figures
        shutil.rmtree(folder, ignore_errors=True)
    return shares


def run_all(names: list[str], *, short: bool) -> dict[str, Figures]:
    """Run the trials of some commands in as many processes as there are workers."""
    # Not a TemporaryDirectory, which every child that ends as a command does would remove.
    scratch = Path(tempfile.mkdtemp()).resolve()
    simplify()
    children = []
    for worker in range(NUM_WORKERS):
        children.append(child := os.fork())
        if not child:
            _work(names, worker, scratch, short=short)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    require(not any(statuses), f"a worker did not end, see its error above; {scratch} is kept")
    reports = [json.loads((scratch / f"share-{worker}").read_text()) for worker in range(NUM_WORKERS)]
    shutil.rmtree(scratch)
    return {name: _add_up([report[name] for report in reports if name in report]) for name in names}


def _work(names: list[str], worker: int, scratch: Path, *, short: bool) -> NoReturn:
    """Run a worker's share, write its figures, and end the process."""
    status = 1
    try:
        shares = run_share(names, worker, scratch, short=short)
        report = {name: asdict(figures) for name, figures in shares.items()}
        (scratch / f"share-{worker}").write_text(json.dumps(report))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _add_up(shares: list[dict[str, Any]]) -> Figures:
    total = Figures(shares[0]["io_calls"])
    for share in shares:
        total.signals_at_random_times += share["signals_at_random_times"]
        total.signals_at_calls += share["signals_at_calls"]
        total.failed_calls += share["failed_calls"]
        total.found = {name: total.found.get(name, 0) + share["found"].get(name, 0) for name in (NOTHING, OLD, NEW)}
        total.signal_deaths += share["signal_deaths"]
        total.broken_promises += share["broken_promises"]
        total.seconds = max(total.seconds, share["seconds"])
    return total


if __name__ == "__main__":
    parts, is_short = parse_arguments(list(WORKLOADS))
    if parts:
        all_figures = run_all(parts, short=is_short)
        print(json.dumps({name: asdict(figures) for name, figures in all_figures.items()}, indent=2))
        sys.exit(any(figures.signal_deaths or figures.broken_promises for figures in all_figures.values()))
