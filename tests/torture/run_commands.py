"""Torture test of commands: signals at random times, and errors and signals at their input/output calls.

`make torture` runs all trials, and the tests run a small part; both preload `faults.c`. After each trial the old or new
result is complete, the repeated command writes the new result, and the files of the user are unchanged.
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
    USER_FILE,
    WORKLOADS,
    fill_in,
    require,
    run_command,
    run_to_end,
)
from tests.torture.preload import import_all, simplify
from tests.torture.small_backbone import replace_backbone
from tests.torture.trials import KILL, STOPS, Trials, parse_arguments

NUM_WORKERS = 2
ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EMFILE)
CAUGHT = {signal.SIGTERM: {143}, signal.SIGINT: {130}, signal.SIGHUP: {129, 143}, signal.SIGKILL: set[int]()}
"""Exit statuses of an interrupted command."""


@dataclass
class Results:
    """Numbers of trials of a command, and failures found; without failures the lists are empty."""

    io_calls: int = 0
    signals_at_random_times: int = 0
    signals_at_calls: int = 0
    failed_calls: int = 0
    found: dict[str, int] = field(default_factory=dict)
    """Number of trials by result before the command is repeated: nothing, the old result or the new one."""
    crashes: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Trial:
    """Fault at a call or at a time."""

    kind: int
    """Error number of the call, or minus a signal."""
    call: int = 0
    """Number of the call; 0 for a fault at a time."""
    moment: float = 0.0
    """Time of the fault, as a fraction of the duration of the command."""
    is_permanent: bool = False

    def __str__(self) -> str:
        """Return a description for the list of violations."""
        name = errno.errorcode[self.kind] if self.kind > 0 else signal.Signals(-self.kind).name
        if not self.call:
            return f"{name} at {self.moment:.3f} of the duration"
        return f"{name} at call {self.call}{' and after' if self.is_permanent else ''}"


class CommandTorture:
    """Trials of one command in a scratch folder."""

    def __init__(self, name: str, scratch: Path) -> None:
        self.name, self._workload = name, WORKLOADS[name]
        self._scratch, self._work, self._start = scratch, scratch / "work", scratch / "start"
        self._trials = Trials(scratch, self._work)
        self._work.mkdir()
        self._trials.expect_success("preparing", self._prepare)
        require(not self._trials.violations, f"{self._trials.violations}, output: {self._read_output()}")
        import_all((scratch / "modules").read_text().split())
        if self._workload.needs_process:
            replace_backbone()
        (self._start / USER_FILE).write_text("mine")
        started = time.monotonic()
        self.num_calls = self._trials.count_calls(self._run_to_end)
        self._seconds = time.monotonic() - started
        self.results = Results(self.num_calls, crashes=self._trials.crashes, violations=self._trials.violations)

    def _prepare(self) -> None:
        self._redirect()
        if self._workload.needs_process:
            replace_backbone()
        self._workload.prepare(self._work)
        shutil.copytree(self._work, self._start, symlinks=True)
        # The command runs once to record the modules that it imports.
        self._run_to_end()
        (self._scratch / "modules").write_text("\n".join(list(sys.modules)))
        shutil.rmtree(self._work)
        shutil.copytree(self._start, self._work, symlinks=True)

    @cached_property
    def _process_seconds(self) -> float:
        """Duration of the command in a new process, in seconds; measuring it leaves the folder unchanged."""
        started = time.monotonic()
        require(self._run_process(None) == 0, "the command fails without a fault")
        seconds = time.monotonic() - started
        self._reset(has_inner_user_file=len(self._user_files) > 1)
        return seconds

    def plan(self, *, short: bool) -> list[Trial]:
        """Return all trials, or a small part of them."""
        rng = random.Random(self.name)
        num_kills = self._workload.num_kills
        if short:
            num_kills = 0 if self._workload.needs_process else 1
        stops = rng.sample(STOPS, len(STOPS))
        trials = [Trial(-stops[number % len(stops)], moment=rng.uniform(0, 1.1)) for number in range(num_kills)]
        for call in range(1, self.num_calls + 1, 1 if short else self._workload.call_step):
            errors = [*(Trial(error, call) for error in ERRORS), Trial(errno.ENOSPC, call, is_permanent=True)]
            signals = [Trial(KILL, call), Trial(-STOPS[1 + call // 3 % 3], call)]
            num_errors = self._workload.num_errors
            if short:
                # Whatever the number of calls, these are errors and signals in turn.
                part, rest = divmod(call, self.num_calls // 5 + 1)
                at_call = [(errors + signals)[3 * part % 7]] if rest == 0 else []
            elif num_errors == len(errors):
                at_call = errors + signals
            else:
                at_call = [errors[(call * num_errors + number) % len(errors)] for number in range(num_errors)]
                at_call += [signals[call // 3 % 2]] if call % 3 == 0 else []
            trials += at_call
        return trials

    def run_trial(self, number: int, trial: Trial) -> None:
        """Run the command with a fault, check the result, and repeat the command."""
        self._reset(has_inner_user_file=number % 2 == 0 and self._workload.start == OLD)
        (self._scratch / "output").write_text("")
        if trial.call:
            status = self._run_with_fault(trial)
        else:
            in_process = self._workload.needs_process or number % 5 == 4
            seconds = self._process_seconds if in_process else self._seconds
            moment = trial.moment * seconds, signal.Signals(-trial.kind)
            status = self._run_process(moment) if in_process else self._trials.fork(self._run, *moment)
        self._check_status(trial, status)
        repeats = not self._workload.needs_process or number % 4 == 0
        (found := self._scratch / "found").unlink(missing_ok=True)
        self._trials.expect_success(f"{trial}, status {status}", lambda: self._inspect(repeats=repeats))
        if found.exists():
            name = found.read_text()
            self.results.found[name] = self.results.found.get(name, 0) + 1
        if trial.kind > 0:
            self.results.failed_calls += 1
        elif trial.call:
            self.results.signals_at_calls += 1
        else:
            self.results.signals_at_random_times += 1

    def _reset(self, *, has_inner_user_file: bool) -> None:
        shutil.rmtree(self._work, ignore_errors=True)
        shutil.copytree(self._start, self._work, symlinks=True)
        target = self._work / self._workload.target
        self._user_files = [self._work / USER_FILE]
        if has_inner_user_file and target.is_dir():
            self._user_files.append(target / USER_FILE)
            (target / USER_FILE).write_text("mine")

    def _run_process(self, moment: tuple[float, signal.Signals] | None) -> int:
        """Run the command in a new process, and send a signal after some seconds, if given."""
        arguments = fill_in(self._workload.command, self._work)
        small_backbone = ["tests.torture.small_backbone"] if self._workload.needs_process else []
        with (self._scratch / "output").open("wb") as output:
            child = subprocess.Popen([sys.executable, "-m", *small_backbone, *arguments], stdout=output, stderr=output)
            if moment:
                time.sleep(moment[0])
                child.send_signal(moment[1])
            return child.wait()

    def _run_with_fault(self, trial: Trial) -> int:
        def run() -> None:
            self._trials.arm(trial.call, trial.kind, is_permanent=trial.is_permanent)
            self._run()

        return self._trials.fork(run)

    def _run(self) -> None:
        self._redirect()
        run_command(self._workload.command, self._work)

    def _run_to_end(self) -> None:
        self._redirect()
        try:
            run_to_end(self._workload.command, self._work)
        except AssertionError as error:
            raise AssertionError(f"{error}, output: {self._read_output()[-400:]}") from None

    def _redirect(self) -> None:
        output = os.open(self._scratch / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)

    def _read_output(self) -> str:
        return (self._scratch / "output").read_text(errors="replace")

    def _check_status(self, trial: Trial, status: int) -> None:
        output = self._read_output()
        errors = [line for line in output.splitlines() if line.startswith("error: ")]
        number = -trial.kind if trial.kind < 0 else 0
        if trial.kind > 0:
            is_expected = status == 0 or (status == 1 and len(errors) == 1)
        else:
            # A signal before the command has started ends the process without its handlers.
            is_early = status == -number and not trial.call and self._list(self._work) == self._list(self._start)
            if is_early:
                return
            is_expected = status in {0, *CAUGHT[signal.Signals(number)]} or status == -number == -signal.SIGKILL
        if status < 0 and status != -number:
            self.results.crashes.append(f"{trial}: signal {-status}")
        elif not is_expected or "Traceback" in output:
            self.results.violations.append(f"{trial}: status {status}, output: {output[-400:]}")

    def _inspect(self, *, repeats: bool) -> None:
        """Check for the old or the new result and, if the command is repeated, for the new one after that."""
        found = self._workload.inspect(self._work)
        (self._scratch / "found").write_text(found)
        require(found in (self._workload.start, NEW), f"found {found}")
        self._require_user_files()
        if not repeats:
            return
        self._run_to_end()
        found = self._workload.inspect(self._work)
        require(found == NEW, f"repeated: found {found}")
        self._require_user_files()
        # The lock file remains until the next command that writes the target.
        hidden = [path for path in self._list(self._work) - self._list(self._start) if "/." in f"/{path}"]
        left = [path for path in hidden if not path.endswith(".lock")]
        require(not left, f"repeated: leftovers {left}")

    def _require_user_files(self) -> None:
        for user_file in self._user_files:
            require(user_file.exists() and user_file.read_text() == "mine", f"{user_file} was changed")

    def _list(self, folder: Path) -> set[str]:
        """List the paths below a folder, except the user's file, which only some trials have."""
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != USER_FILE}


def run_share(names: list[str], worker: int, scratch: Path, *, short: bool) -> dict[str, Results]:
    """Run the share of a worker: some trials of all commands or, in the short form, all trials of some commands."""
    shares = {}
    num_sharing = 1 if short else NUM_WORKERS
    for name in names[worker::NUM_WORKERS] if short else names:
        started = time.monotonic()
        folder = scratch / f"{name}-{worker}"
        folder.mkdir()
        torture = CommandTorture(name, folder)
        for number, trial in enumerate(torture.plan(short=short)):
            if number % num_sharing == worker % num_sharing:
                torture.run_trial(number // num_sharing, trial)
        torture.results.seconds = round(time.monotonic() - started, 1)
        shares[name] = torture.results
        shutil.rmtree(folder, ignore_errors=True)
    return shares


def run_all(names: list[str], *, short: bool) -> dict[str, Results]:
    """Run the trials of some commands in `NUM_WORKERS` processes."""
    # A command runs Python's exit handlers at its end, so a forked command would remove a TemporaryDirectory.
    scratch = Path(tempfile.mkdtemp()).resolve()
    simplify()
    children = []
    for worker in range(NUM_WORKERS):
        children.append(child := os.fork())
        if not child:
            _work(names, worker, scratch, short=short)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    require(not any(statuses), f"a worker failed with the error above; {scratch} is kept")
    reports = [json.loads((scratch / f"share-{worker}").read_text()) for worker in range(NUM_WORKERS)]
    shutil.rmtree(scratch)
    return {name: _add_results([report[name] for report in reports if name in report]) for name in names}


def _work(names: list[str], worker: int, scratch: Path, *, short: bool) -> NoReturn:
    """Run the share of a worker, write its results, and end the process."""
    status = 1
    try:
        shares = run_share(names, worker, scratch, short=short)
        report = {name: asdict(results) for name, results in shares.items()}
        (scratch / f"share-{worker}").write_text(json.dumps(report))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _add_results(shares: list[dict[str, Any]]) -> Results:
    total = Results(shares[0]["io_calls"])
    for share in shares:
        total.signals_at_random_times += share["signals_at_random_times"]
        total.signals_at_calls += share["signals_at_calls"]
        total.failed_calls += share["failed_calls"]
        total.found = {name: total.found.get(name, 0) + share["found"].get(name, 0) for name in (NOTHING, OLD, NEW)}
        total.crashes += share["crashes"]
        total.violations += share["violations"]
        total.seconds = max(total.seconds, share["seconds"])
    return total


if __name__ == "__main__":
    parts, is_short = parse_arguments(list(WORKLOADS))
    if parts:
        all_results = run_all(parts, short=is_short)
        print(json.dumps({name: asdict(results) for name, results in all_results.items()}, indent=2))
        sys.exit(any(results.crashes or results.violations for results in all_results.values()))
