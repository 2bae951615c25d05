"""An interrupt at any point of a commit costs no feature."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from features import writer as writer_module
from features.maintenance.check import find_problems
from features.schema import FeatureStatus
from features.store import FeatureStore
from features.writer import FeatureWriter
from tests.features.stores import make_features, make_fingerprint, make_image, make_key, make_origin

ROOT = Path(__file__).parents[2]
NUM_ROWS = 6


def fill_interrupted(store: Path) -> None:
    """Fills a store as extraction does: what was handed over is committed, whatever ends the loop."""
    with FeatureWriter(store, make_fingerprint(), make_origin(), rows_per_shard=4) as writer:
        try:
            for number in range(NUM_ROWS):
                features = make_features(range(number, number + 1))
                writer.add_image(make_image(number))
                writer.add_features([make_key(number)], features, [FeatureStatus.OK])
        finally:
            writer.commit()


def interrupt_once(act: Callable[..., Any], *, before: bool) -> Callable[..., Any]:
    """Makes a function that raises KeyboardInterrupt the first time, before or after it has done its work."""
    done: list[bool] = []

    def interrupted(*arguments: Any) -> Any:
        result = None if before and not done else act(*arguments)
        if not done:
            done.append(True)
            raise KeyboardInterrupt
        return result

    return interrupted


def check_kept(store: Path, num_rows: int) -> None:
    opened = FeatureStore(store)
    assert sorted(example.path for example in opened.examples) == sorted(make_image(n).path for n in range(num_rows))
    by_number = sorted(opened.examples, key=lambda example: example.path[-9:])
    assert (opened.read(by_number) == make_features(range(num_rows))).all()
    assert find_problems(store, read_data=True, images=None, advance=lambda _: None) == []


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("step", ["encode_shard", "write_shard"])
def test_commit_interrupted_at_a_step_is_made_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, before: bool
) -> None:
    monkeypatch.setattr(writer_module, step, interrupt_once(getattr(writer_module, step), before=before))
    with pytest.raises(KeyboardInterrupt):
        fill_interrupted(tmp_path)
    check_kept(tmp_path, 4)


@pytest.mark.parametrize("before", [True, False])
def test_commit_interrupted_at_its_transaction_is_made_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    from features.catalog.catalog import Catalog

    monkeypatch.setattr(Catalog, "add_shard", interrupt_once(Catalog.add_shard, before=before))
    with pytest.raises(KeyboardInterrupt):
        fill_interrupted(tmp_path)
    check_kept(tmp_path, 4)


def test_commit_interrupted_right_after_its_transaction_enters_no_row_twice(tmp_path: Path) -> None:
    class Interrupted(dict[Any, Any]):
        def update(self, *_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

    with FeatureWriter(tmp_path, make_fingerprint(), make_origin(), rows_per_shard=4) as writer:
        known, writer._known = writer._known, Interrupted()
        writer.add_features([make_key(0)], make_features(range(1)), [FeatureStatus.OK])
        writer.add_image(make_image(0))
        with pytest.raises(KeyboardInterrupt):
            writer.commit()
        writer._known = known
        writer.commit()
        writer.add_features([make_key(1)], make_features(range(1, 2)), [FeatureStatus.OK])
        writer.add_image(make_image(1))
        writer.commit()
    assert [shard.num_rows for shard in FeatureStore(tmp_path).shards] == [1, 1]
    check_kept(tmp_path, 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_while_a_shard_is_made_is_handled_after_it_is_committed(tmp_path: Path, number: signal.Signals) -> None:
    program = (
        "import os, pathlib, sys\n"
        "from base import signals\n"
        "from features import writer\n"
        "from features.store import FeatureStore\n"
        "from tests.features.test_interrupts import fill_interrupted\n"
        "signals.interrupt_on_signals()\n"
        "store, encode = pathlib.Path(sys.argv[1]), writer.encode_shard\n"
        "def encode_then_signal(*arguments):\n"
        "    writer.encode_shard = encode\n"
        "    data = encode(*arguments)\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    return data\n"
        "writer.encode_shard = encode_then_signal\n"
        "writer.FeatureWriter.commit, commit = lambda self: (commit(self), print('committed')), "
        "writer.FeatureWriter.commit\n"
        "try:\n    fill_interrupted(store)\n"
        "except KeyboardInterrupt:\n    print('interrupted')\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    # The first commit is whole, and then interrupted; the second, of nothing more, is the one that ends the loop.
    assert (done.returncode, done.stdout.splitlines()) == (0, ["committed", "interrupted"]), done.stderr
    check_kept(tmp_path, 4)
