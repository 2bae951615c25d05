"""Interrupts during a commit: no committed or added feature is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features import store_writer as writer_module
from features.catalog.catalog import Catalog
from features.shards import write as write_module
from features.store import FeatureStore
from tests.features.stores import (
    add_features,
    find_all_problems,
    make_features,
    make_image,
    make_writer,
    read_sorted,
)
from tests.systems import needs_posix

ROOT = Path(__file__).parents[2]
NUM_ROWS = 6


def fill_interrupted(store: Path) -> None:
    """Write features as extraction does: added features are committed, however the loop ends."""
    with make_writer(store) as writer:
        try:
            for number in range(NUM_ROWS):
                writer.add_image(make_image(number))
                add_features(writer, [number])
        finally:
            writer.commit()


def interrupt_once(function: Callable[..., Any], *, before: bool) -> Callable[..., Any]:
    """Return a function that raises KeyboardInterrupt on the first call, before or after its work."""
    calls: list[bool] = []

    def interrupted(*arguments: Any) -> Any:
        result = None if before and not calls else function(*arguments)
        if not calls:
            calls.append(True)
            raise KeyboardInterrupt
        return result

    return interrupted


def check_rows(folder: Path, num_rows: int) -> None:
    """Check that a store is intact and has the first pictures."""
    store = FeatureStore(folder)
    assert {example.path for example in store.examples} == {make_image(number).path for number in range(num_rows)}
    np.testing.assert_array_equal(read_sorted(store), make_features(range(num_rows)))
    assert find_all_problems(folder) == []


@pytest.mark.unit
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    ("module", "step"), [(write_module, "encode_shard"), (writer_module, "write_shard"), (Catalog, "add_shard")]
)
def test_commit_interrupted_at_a_step_is_completed_by_the_next_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, step: str, before: bool
) -> None:
    monkeypatch.setattr(module, step, interrupt_once(getattr(module, step), before=before))
    with pytest.raises(KeyboardInterrupt):
        fill_interrupted(tmp_path)
    check_rows(tmp_path, 4)


@pytest.mark.unit
def test_commit_interrupted_after_its_transaction_adds_no_row_twice(tmp_path: Path) -> None:
    class Interrupted(dict[Any, Any]):
        def update(self, *_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

    with make_writer(tmp_path) as writer:
        known, writer._committed = writer._committed, Interrupted()
        add_features(writer, [0])
        writer.add_image(make_image(0))
        with pytest.raises(KeyboardInterrupt):
            writer.commit()
        writer._committed = known
        writer.commit()
        add_features(writer, [1])
        writer.add_image(make_image(1))
        writer.commit()
    assert [shard.num_rows for shard in FeatureStore(tmp_path).shards] == [1, 1]
    check_rows(tmp_path, 2)


@needs_posix
def test_signal_during_a_commit_is_handled_after_the_commit(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys\n"
        "from base import signals\n"
        "from features import store_writer\n"
        "from features.shards import write\n"
        "from tests.features.test_interrupts import fill_interrupted\n"
        "signals.interrupt_on_signals()\n"
        "encode, commit = write.encode_shard, store_writer.FeatureWriter.commit\n"
        "def encode_and_signal(*arguments):\n"
        "    write.encode_shard = encode\n"
        "    data = encode(*arguments)\n"
        f"    os.kill(os.getpid(), {int(signal.SIGTERM)})\n"
        "    return data\n"
        "write.encode_shard = encode_and_signal\n"
        "store_writer.FeatureWriter.commit = lambda self: (commit(self), print('committed'))\n"
        "try:\n    fill_interrupted(pathlib.Path(sys.argv[1]))\n"
        "except KeyboardInterrupt:\n    print('interrupted')\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    # The interrupt is raised at the end of the first commit, so `committed` is not printed for it. The commit at the
    # end of the loop prints it, and has no new rows.
    assert (done.returncode, done.stdout.splitlines()) == (0, ["committed", "interrupted"]), done.stderr
    check_rows(tmp_path, 4)
