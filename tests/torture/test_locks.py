"""Commands on a file system whose locks fail, with `faults.c` preloaded."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from features.catalog.database import BUSY_SECONDS
from tests.features.stores import copy_store
from tests.files import read_files
from tests.torture.short import ROOT, compile_faults

pytestmark = pytest.mark.torture

READ = [["info", "store"], ["check", "store", "--read-data"], ["pack", "store", "{out}.h5"], ["info", "packed.h5"]]
WRITE = [["check", "store", "--rebuild-catalog"], ["pack", "store", "new.h5"]]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_features_without_locks_reads_at_once_and_writes_nothing(tmp_path: Path, number: int) -> None:
    folder = tmp_path / "mount"
    copy_store(folder / "store", range(8))
    command = [sys.executable, "-m", "features"]
    subprocess.run([*command, "pack", folder / "store", folder / "packed.h5", "-q"], cwd=ROOT, check=True)
    before = read_files(folder)
    variables = {
        "LD_PRELOAD": str(compile_faults(tmp_path / "faults.so")),
        "TORTURE_NO_LOCKS": f"{folder}/",
        "TORTURE_NO_LOCKS_ERRNO": str(number),
    }

    def run(arguments: list[str]) -> int:
        first, *rest = (word.format(out=tmp_path / "out") for word in arguments)
        places = [str(folder / word) if not word.startswith("-") else word for word in rest]
        # A command that waited for a lock would wait for BUSY_SECONDS.
        return subprocess.run(
            [*command, first, *places], cwd=ROOT, env=os.environ | variables, check=False, timeout=BUSY_SECONDS
        ).returncode

    assert [run(arguments) for arguments in READ] == [0] * len(READ)
    assert [run(arguments) for arguments in WRITE] == [1] * len(WRITE)
    assert read_files(folder) == before
