"""Extraction by workers of Ray on this computer: the same store as without Ray, and faults."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from base.cluster import open_ray
from base.errors import HeadstartError, StoreLockedError, UsageError
from base.lock import hold_write_lock
from base.terminal import Console
from extract.config import ExtractConfig
from extract.counts import BadPicturesError
from extract.decoding.decode import DEFAULT_POLICY
from extract.distribute import pool
from extract.distribute import run as distribute
from extract.distribute.pool import WorkerLostError, WrongWorkerError
from extract.distribute.run import RayExtraction
from features.catalog.tables import ImageRow
from features.schema import ImageStatus
from features.shards.shard import SHARD_FOLDER
from features.store import FeatureStore
from features.store_writer import FeatureWriter
from tests.backbones import build_small_backbone
from tests.errors import raises
from tests.extract.distribute.workers import (
    HOOK,
    KILL,
    KILL_ONCE,
    NUM_ROWS,
    OTHER,
    REAL_SIZE,
    SLOW,
    FakeBackbone,
    describe_fake,
    list_workers,
    request_fault,
)
from tests.extract.extraction import assert_equal_stores, extract
from tests.extract.mean_colours import SHAPE, read_colours, write_pictures
from tests.features.stores import make_fingerprint, make_origin
from tests.pictures import fill_folder

ROOT = Path(__file__).parents[3]
NUM_PICTURES = 40


@pytest.fixture(scope="module")
def ray() -> Iterator[ModuleType]:
    """Ray with two cores on this computer, for all tests of this module."""
    with replace_backbones(), open_ray("--distribute", "ray", 2) as module:
        yield module
    assert not find_children(os.getpid())


@contextmanager
def replace_backbones() -> Iterator[None]:
    """Connect to Ray with workers that have another backbone."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        # Ray imports the hook before it sets the path of the driver.
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setattr(ray, "init", partial(ray.init, runtime_env={"worker_process_setup_hook": HOOK}))
        yield


def find_children(parent: int) -> list[str]:
    """List the commands of the running child processes of Ray."""
    command = ["ps", "-o", "stat=,args=", "--ppid", str(parent)]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return [line for line in lines if "ray" in line and not line.startswith("Z")]


@pytest.fixture
def _small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribute, "SMALLEST_TASK", 4)


@pytest.fixture
def rows(tmp_path: Path) -> list[ImageRow]:
    """Forty pictures of different colours."""
    return write_pictures(tmp_path / "pictures", range(NUM_PICTURES))


def run_fake(folder: Path, rows: Sequence[ImageRow], max_bad: int = 0, address: str = "ray") -> RayExtraction:
    """Extract `folder / "pictures"` into `folder / "store"` without TensorFlow; see `run_loop`."""
    config = ExtractConfig(folder / "pictures", folder / "store", batch_size=4, distribute=address)
    with (
        pytest.MonkeyPatch.context() as patch,
        FeatureWriter(config.store, make_fingerprint(), make_origin(SHAPE), rows_per_shard=NUM_ROWS) as writer,
    ):
        patch.setattr(distribute, "describe_features", describe_fake)
        patch.setattr(distribute, "SMALLEST_TASK", 4)
        if not writer.catalog.read_images():
            writer.update_images(rows, [])
            writer.write_meta("images_folder", "")
        done = {image.path for image in writer.catalog.read_images() if image.status is ImageStatus.DONE}
        backbone: Any = FakeBackbone(config)
        extraction = RayExtraction(config, Console(), [writer], backbone, DEFAULT_POLICY)
        extraction.run([row for row in rows if row.path not in done], max_bad)
    return extraction


def check_store(folder: Path) -> None:
    """Check that the store has each picture once, with its own feature."""
    store = FeatureStore(folder / "store")
    assert read_colours(store) == list(range(NUM_PICTURES))
    assert store.num_features == sum(shard.num_rows for shard in store.shards) == NUM_PICTURES
    assert max(shard.num_rows for shard in store.shards) <= NUM_ROWS
    assert len(list((store.path / SHARD_FOLDER).iterdir())) == len(store.shards)


@pytest.mark.usefixtures("ray", "_small_tasks")
def test_store_of_ray_equals_that_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract.cut_backbone.build_backbone", build_small_backbone)
    pictures = tmp_path / "pictures"
    fill_folder(pictures, {"train/cats": 8, "train/dogs": 8})
    fill_folder(pictures, {"validation/cats": 3, "validation/dogs": 3}, start=50)
    for number in range(4):
        shutil.copy(pictures / f"train/cats/{number:03}.jpg", pictures / f"train/cats/copy-{number}.jpg")
    (pictures / "train/dogs/bad.jpg").write_bytes(b"no picture")
    options = {"cut": "mixed6,mixed7", "image_size": REAL_SIZE, "views": 2, "max_bad": 0.1}
    expected = extract(pictures, tmp_path / "local", **options)
    found = extract(pictures, tmp_path / "ray", distribute="ray", **options)
    for name in ("computed", "duplicates", "reused", "unsound", "one_colour", "fingerprints"):
        assert getattr(found, name) == getattr(expected, name)
    assert [failed["image"] for failed in found.failed] == ["train/dogs/bad.jpg"]
    assert found.failed == expected.failed
    for cut in ("mixed6", "mixed7"):
        assert_equal_stores(tmp_path / "ray" / cut, tmp_path / "local" / cut)
        assert FeatureStore(tmp_path / "ray" / cut).images == FeatureStore(tmp_path / "local" / cut).images
    monkeypatch.setattr(distribute, "open_ray", None)  # A run without new pictures does not start Ray.
    (pictures / "train/dogs/bad.jpg").unlink()
    assert extract(pictures, tmp_path / "ray", distribute="ray", **options).computed == 0


@pytest.mark.usefixtures("ray")
def test_task_that_ends_every_worker_is_an_error(
    tmp_path: Path, rows: list[ImageRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MAX_LOST", 2)
    request_fault(tmp_path / "pictures", KILL)
    with raises(WorkerLostError, where="--distribute") as caught:
        run_fake(tmp_path, rows[:4])
    assert rows[0].path in caught.value.got


@pytest.mark.usefixtures("ray")
def test_worker_with_other_weights_is_refused_before_it_computes(tmp_path: Path, rows: list[ImageRow]) -> None:
    request_fault(tmp_path / "pictures", OTHER)
    with raises(WrongWorkerError, got="cd" * 32) as caught:
        run_fake(tmp_path, rows)
    assert "weights_sha256" in caught.value.expected
    assert "ab" * 32 in caught.value.expected
    assert not list_workers(tmp_path / "pictures")
    assert not FeatureStore(tmp_path / "store").shards


@pytest.mark.usefixtures("ray")
def test_too_many_bad_pictures_stop_the_run_and_a_killed_worker_does_not(tmp_path: Path, rows: list[ImageRow]) -> None:
    for row in rows[20:23]:
        (tmp_path / "pictures" / row.path).write_bytes(b"no picture")
    with pytest.raises(BadPicturesError):
        run_fake(tmp_path, rows, max_bad=2)
    num_kept = FeatureStore(tmp_path / "store").num_features
    assert num_kept
    workers = list_workers(tmp_path / "pictures")
    request_fault(tmp_path / "pictures", KILL_ONCE)
    again = run_fake(tmp_path, rows, max_bad=3)
    assert len(list_workers(tmp_path / "pictures")) - len(workers) in (2, 3)
    assert again.counts.num_computed == NUM_PICTURES - 3 - num_kept
    assert {failed["image"] for failed in again.counts.failed} == {row.path for row in rows[20:23]}
    assert FeatureStore(tmp_path / "store").num_features == NUM_PICTURES - 3


@pytest.mark.usefixtures("ray")
def test_interrupt_keeps_the_batches_that_workers_finish(tmp_path: Path, rows: list[ImageRow]) -> None:
    request_fault(tmp_path / "pictures", SLOW)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    main = threading.main_thread().ident or 0

    def interrupt() -> None:
        while not list_workers(tmp_path / "pictures"):
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_fake(tmp_path, rows)
    finally:
        signal.signal(signal.SIGINT, handler)
    num_kept = FeatureStore(tmp_path / "store").num_features
    assert 0 < num_kept < NUM_PICTURES
    assert len(FeatureStore(tmp_path / "store").examples) == num_kept


def test_killed_driver_leaves_no_workers_and_its_shards_are_adopted(
    tmp_path: Path, rows: list[ImageRow], ray: ModuleType
) -> None:
    program = (
        "import os, signal, sys, pathlib\n"
        "from extract.distribute.run import RayExtraction\n"
        "from tests.extract.distribute import test_run\n"
        "commit, calls = RayExtraction._commit, []\n"
        "def commit_or_die(self, result):\n"
        "    calls.append(result)\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if len(calls) == 3 else commit(self, result)\n"
        "RayExtraction._commit = commit_or_die\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "rows = test_run.list_rows(folder / 'pictures')\n"
        "with test_run.replace_backbones():\n"
        "    test_run.run_fake(folder, rows, address=sys.argv[2])\n"
    )
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", program, str(tmp_path), address]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{process}").exists() for process in list_workers(tmp_path / "pictures")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    num_written = len(list((tmp_path / "store" / SHARD_FOLDER).glob("0*.h5")))
    assert len(FeatureStore(tmp_path / "store").shards) == 2 < num_written
    again = run_fake(tmp_path, rows)
    assert again.counts.num_computed < NUM_PICTURES - 2 * NUM_ROWS
    check_store(tmp_path)


def list_rows(folder: Path) -> list[ImageRow]:
    """List the catalog rows of `write_pictures`."""
    return [ImageRow(p.name, "cats", "", p.stat().st_size, 1) for p in sorted(folder.glob("*.png"))]


@pytest.mark.usefixtures("ray")
def test_worker_that_no_node_has_cores_for_is_refused(tmp_path: Path, rows: list[ImageRow]) -> None:
    config = ExtractConfig(tmp_path / "pictures", tmp_path / "store", distribute="ray", threads=100)
    with FeatureWriter(config.store, make_fingerprint(), make_origin(SHAPE)) as writer:
        backbone: Any = FakeBackbone(config)
        with raises(UsageError, where="--distribute ray --threads 100"):
            RayExtraction(config, Console(), [writer], backbone, DEFAULT_POLICY).run(rows, 0)


def test_store_of_another_driver_is_refused_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract.cut_backbone.build_backbone", build_small_backbone)
    monkeypatch.setattr(distribute, "open_ray", None)
    fill_folder(tmp_path / "pictures", {"cats": 2, "dogs": 2})
    (tmp_path / "store").mkdir()
    with hold_write_lock(tmp_path / "store"), raises(StoreLockedError, where=tmp_path / "store"):
        extract(tmp_path / "pictures", tmp_path / "store", cut="mixed6", distribute="ray")


def test_cluster_that_does_not_answer_is_refused_before_the_backbone_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.cut_backbone.build_backbone", None)
    fill_folder(tmp_path / "pictures", {"cats": 2, "dogs": 2})
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with raises(HeadstartError, where=f"--distribute {address}"):
            extract(tmp_path / "pictures", tmp_path / "store", distribute=address)
    assert not (tmp_path / "store").exists()


def test_missing_package_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_folder(tmp_path / "pictures", {"cats": 2, "dogs": 2})
    monkeypatch.setattr("base.errors.find_spec", lambda name: None)
    with raises(UsageError, where="--distribute ray") as caught:
        extract(tmp_path / "pictures", tmp_path / "store", distribute="ray")
    assert 'pip install "headstart[ray]"' in caught.value.advice
    assert not (tmp_path / "store").exists()
