"""Reproducibility: the same pictures, labels, options and seed give the same head bit for bit, in any storage order."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from base.terminal import Console
from features.options import Compression, Pool
from features.packed.write import pack_store
from features.store import FeatureStore
from tests.train_head.fits import InterruptingConsole, limit_memory
from tests.train_head.synthetic import add_views, draw_view, hash_text, list_paths, make_store
from tests.train_head.training import ROOT, make_config
from train_head.config import SolverName, TrainConfig
from train_head.runs.read import Run
from train_head.runs.record import LOGITS_FILE
from train_head.train import train_head

SHAPE = (5, 5, 96)
COUNTS = {"train/cats": 70, "train/dogs": 60, "validation/cats": 20, "validation/dogs": 20}
PATHS = list_paths(COUNTS)
WIDE = np.maximum(np.random.default_rng(0).normal(0.3, 1, (len(PATHS), *SHAPE)), 0)
WIDE += np.array(["dogs" in path for path in PATHS])[:, None, None, None] * (np.arange(96) % 17 == 0) * 0.2
SOLVERS = pytest.mark.parametrize("solver", [SolverName.REDUCED, SolverName.FULL])
RIDGE = ["ridge", "ridge on means"]
METHODS = pytest.mark.parametrize("method", ["exact", "sketch", "full", *RIDGE])
COMMAND = """
import hashlib, sys
from pathlib import Path
from base.terminal import Console, ConsoleOptions
from features.store import FeatureStore
from tests.train_head.test_same_head import fit_digest
store, folder, console = FeatureStore(Path(sys.argv[1])), Path(sys.argv[2]), Console(ConsoleOptions(quiet=True))
print(fit_digest(store, folder / "exact", "exact", console))
print(fit_digest(store, folder / "full", "full", console))
print(fit_digest(store, folder / "ridge", "ridge", console))
"""


def store_in_order(folder: Path) -> FeatureStore:
    return make_store(folder, PATHS, features=WIDE, rows_per_shard=64)


def store_in_another_order(folder: Path) -> FeatureStore:
    order = np.random.default_rng(1).permutation(len(PATHS))
    return make_store(folder, [PATHS[n] for n in order], features=WIDE[order], rows_per_shard=23)


def store_in_two_sessions(folder: Path) -> FeatureStore:
    # The first extraction lacks a third of the pictures of each class.
    late = [n for n in range(len(PATHS)) if n % 3 == 0]
    order = [n for n in range(len(PATHS)) if n % 3] + late
    return make_store(folder, [PATHS[n] for n in order], features=WIDE[order], rows_per_shard=50)


def store_under_other_names(folder: Path) -> FeatureStore:
    order = np.random.default_rng(2).permutation(len(PATHS))
    names = [f"{PATHS[n].rpartition('/')[0]}/{place:03}.png" for place, n in enumerate(order)]
    contents = [hash_text(PATHS[n]) for n in order]
    return make_store(folder, names, features=WIDE[order], contents=contents, rows_per_shard=64)


def store_packed(folder: Path) -> FeatureStore:
    pack_store(store_in_another_order(folder), folder.with_suffix(".h5"), Compression.GZIP, lambda _: None)
    return FeatureStore(folder.with_suffix(".h5"))


def hold_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep reduced features in files, and read a few batches of them at a time."""
    monkeypatch.setattr("train_head.reduction.row_file.HELD_BYTES", 0)
    monkeypatch.setattr("train_head.solvers.reduced.SORTED_BLOCK_BYTES", 40 * 4 * 96)


def make_problem(store: FeatureStore, run: Path, method: str) -> TrainConfig:
    solver = {"full": SolverName.FULL, **dict.fromkeys(RIDGE, SolverName.RIDGE)}.get(method, SolverName.REDUCED)
    pool = Pool.AVG if method == "ridge on means" else Pool.NONE
    return make_config(store, run, solver=solver, epochs=3, batch_size=19, units=24, rank=None, views=None, pool=pool)


def hash_run(run: Path) -> str:
    """Hash the weights, the history without durations, and the validation logits of a run."""
    digest = hashlib.sha256()
    for name, array in sorted(Run(run).read_head().to_arrays().items()):
        digest.update(name.encode() + array.tobytes())
    for row in Run(run).read_history():
        digest.update(repr((row.loss, row.accuracy, row.val_loss, row.val_accuracy)).encode())
    logits = run / LOGITS_FILE
    digest.update(logits.read_bytes() if logits.exists() else b"")
    return digest.hexdigest()


def fit_digest(store: FeatureStore, run: Path, method: str, console: Console) -> str:
    """Train on a store, and return the hash of the run."""
    train_head(make_problem(store, run, method), console)
    return hash_run(run)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return store_in_order(tmp_path_factory.mktemp("same") / "store")


@pytest.fixture(scope="module")
def expected(plain: FeatureStore, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> dict[str, str]:
    """Hash of the run on the plain store by each method."""
    digests = {}
    for method in ("exact", "sketch", "full", *RIDGE):
        shutil.rmtree(plain.derived_folder, ignore_errors=True)
        with pytest.MonkeyPatch.context() as patch:
            force_sketch(patch, method)
            digests[method] = fit_digest(plain, tmp_path_factory.mktemp("expected") / "run", method, quiet)
    return digests


@pytest.fixture(autouse=True)
def _uncached(plain: FeatureStore, expected: dict[str, str]) -> None:
    """Remove the factors that another test cached. They may have been computed in blocks of another size."""
    shutil.rmtree(plain.derived_folder, ignore_errors=True)


def force_sketch(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Make the reduced solver use a sketch, as it does on stores with more rows."""
    if method == "sketch":
        monkeypatch.setattr("train_head.reduction.reduce.MAX_EXACT_ROWS", 50)


@METHODS
def test_train_on_pictures_stored_differently_gives_same_head(
    expected: dict[str, str], tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    force_sketch(monkeypatch, method)
    makers: list[Callable[[Path], FeatureStore]] = [store_packed, store_under_other_names]
    if method != "full":
        makers += [store_in_another_order, store_in_two_sessions]
    for make in makers:
        store = make(tmp_path / make.__name__)
        assert fit_digest(store, tmp_path / f"run-{make.__name__}", method, quiet) == expected[method], make.__name__


def test_train_with_another_number_of_threads_gives_same_head(
    plain: FeatureStore, expected: dict[str, str], tmp_path: Path
) -> None:
    # The expected heads were fitted in this process: with one thread beside other workers, otherwise on all cores.
    threads = 2 if "1" in (os.environ.get("OMP_NUM_THREADS"), str(os.cpu_count())) else 1
    store = shutil.copytree(plain.path, tmp_path / "store", ignore=shutil.ignore_patterns("derived"))
    limits = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), str(threads))
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, str(store), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, **limits},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [expected[method] for method in ("exact", "full", "ridge")]


@pytest.mark.parametrize("method", ["exact", "sketch", *RIDGE])
def test_train_with_any_number_of_workers_gives_same_head(
    plain: FeatureStore, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    force_sketch(monkeypatch, method)
    monkeypatch.setattr("train_head.reduction.matrix.PANEL_COLUMNS", 200)
    found = set()
    for threads in (1, 3, 8):
        monkeypatch.setattr("os.cpu_count", lambda threads=threads: threads)
        shutil.rmtree(plain.derived_folder, ignore_errors=True)
        found.add(fit_digest(plain, tmp_path / f"run-{threads}", method, quiet))
    assert len(found) == 1


@METHODS
def test_train_with_features_in_memory_or_read_in_blocks_gives_same_head(
    plain: FeatureStore,
    expected: dict[str, str],
    tmp_path: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    force_sketch(monkeypatch, method)
    limit_memory(monkeypatch, 20 * 2 * int(np.prod(SHAPE)))
    monkeypatch.setattr("train_head.reduction.matrix.HELD_BYTES", 0)
    monkeypatch.setattr("train_head.reduction.matrix.SORTED_BYTES", 0)
    hold_no_rows(monkeypatch)
    for name in ("computed", "cached"):
        assert fit_digest(plain, tmp_path / name, method, quiet) == expected[method]
    num_matrices = len(list(plain.derived_folder.glob("rows-*.npy")))
    assert num_matrices == (2 if method == "sketch" else 0)


@pytest.mark.parametrize("method", ["exact", "sketch", "ridge"])
def test_train_with_cached_factors_gives_same_head(
    plain: FeatureStore,
    expected: dict[str, str],
    tmp_path: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    force_sketch(monkeypatch, method)
    for name in ("first", "second"):
        assert fit_digest(plain, tmp_path / name, method, quiet) == expected[method]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("is_held", [True, False], ids=["held", "on-disk"])
@pytest.mark.parametrize("method", ["exact", "sketch", "full"])
def test_train_interrupted_resumes_on_the_same_pictures_stored_differently(
    plain: FeatureStore,
    expected: dict[str, str],
    tmp_path: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    is_held: bool,
) -> None:
    force_sketch(monkeypatch, method)
    if not is_held:
        monkeypatch.setattr("train_head.data.batches.HELD_BYTES", 0)
        hold_no_rows(monkeypatch)
    config = make_problem(plain, tmp_path / "run", method)
    with pytest.raises(KeyboardInterrupt):
        train_head(config, InterruptingConsole(2))
    # Before the training resumes, cached factors are lost and the pictures are extracted again in another order.
    shutil.rmtree(plain.derived_folder, ignore_errors=True)
    other = store_in_another_order(tmp_path / "other")
    train_head(replace(config, store=other.path), quiet)
    assert hash_run(config.run) == expected[method]


@SOLVERS
def test_train_on_views_stored_differently_gives_same_head(tmp_path: Path, quiet: Console, solver: SolverName) -> None:
    names = list_paths({"train/cats": 9, "train/dogs": 8, "validation/cats": 4, "validation/dogs": 4})
    trained = [name for name in names if name.startswith("train")]
    found = set()
    for number, order in enumerate((names, names[::-1])):
        store = make_store(tmp_path / f"store-{number}", order)
        # All views in one session; or one view in each session, with the last pictures first.
        if number == 0:
            store = add_views(store, {name: [1, 2] for name in trained}, draw=draw_view)
        else:
            for view in (2, 1):
                store = add_views(store, {name: [view] for name in reversed(trained)}, draw=draw_view)
        config = make_config(store, tmp_path / f"run-{number}", solver=solver, epochs=3)
        train_head(config, quiet)
        found.add(hash_run(config.run))
    assert len(found) == 1
