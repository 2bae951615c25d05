"""The short forms of `make torture`: a small part of its trials, with the same promises."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preloaded library, compiled here, so that the test needs no more than a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None, "the torture needs a C compiler: apt-get install gcc libc6-dev"
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def test_store_tortured_keeps_every_committed_row_and_always_resumes(faults: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture.run", "--short"],
        env={**os.environ, "LD_PRELOAD": str(faults)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    figures = json.loads(done.stdout)
    assert (figures["signal_deaths"], figures["broken_promises"]) == ([], []), done.stderr
    assert figures["flips_found"] + figures["flips_unused"] == figures["byte_flips"]
    assert figures["flips_found"] > figures["byte_flips"] // 2
    for trials in ("kills_at_calls", "kills_at_random_times", "failed_calls", "power_cuts", "byte_flips"):
        assert figures[trials] > 0, trials


def test_commands_tortured_leave_the_old_or_the_new_result_and_go_on(faults: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture.run_commands", "--short"],
        env={**os.environ, "LD_PRELOAD": str(faults)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    for name, figures in json.loads(done.stdout).items():
        assert (figures["signal_deaths"], figures["broken_promises"]) == ([], []), name
        assert figures["signals_at_random_times"] + figures["signals_at_calls"] > 0, name
        assert figures["failed_calls"] > 0, name


def test_mutated_files_end_in_no_crash_and_each_refused_one_is_named_once() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture.hostile", "--short"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    figures = json.loads(done.stdout)
    assert (figures["signals"], figures["broken"]) == ([], []), done.stderr
    assert figures["pictures"] == 340
    assert 100 < figures["pictures_refused"] < 340, "some of both kinds"
    assert figures["files"] == {"shard": 60, "pack": 60, "model": 40}
    assert all(0 < figures["refused"][kind] < count for kind, count in figures["files"].items())
