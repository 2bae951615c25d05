"""`--factored`: the head of the reduced solver with two kernels has the same outputs, and is smaller."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import UsageError
from base.terminal import Console
from tests.errors import raises
from tests.train_head.export.edits import assert_refused, edit_weights, remove_digest
from tests.train_head.synthetic import OPTIONS, run_export
from train_head.config import SolverName, TrainConfig
from train_head.export.config import ExportConfig
from train_head.export.factor import factor_head, read_reduced_kernel
from train_head.export.write import export_run
from train_head.runs.card import read_card
from train_head.runs.read import Run
from train_head.solvers.head import HeadWeights, restore_head
from train_head.train import train_head

REDUCED = OPTIONS | {"solver": SolverName.REDUCED, "no_report": True}


@pytest.fixture(scope="module")
def reduced_run(early_store: Path, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    """Run of the reduced solver, of rank 8."""
    run = tmp_path_factory.mktemp("reduced") / "run"
    train_head(TrainConfig(early_store, run, **REDUCED, rank=8), quiet)
    return run


@pytest.fixture(scope="module")
def factored(reduced_run: Path, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    """Factored export of `reduced_run`."""
    out = tmp_path_factory.mktemp("factored") / "out"
    export_run(ExportConfig(reduced_run, out, factored=True), quiet)
    return out / "model.keras"


def test_export_factored_has_the_same_probabilities_and_is_smaller(
    reduced_run: Path, factored: Path, tmp_path: Path, quiet: Console
) -> None:
    import keras

    export_run(ExportConfig(reduced_run, tmp_path / "out"), quiet)
    images = np.random.default_rng(0).integers(0, 256, (3, 80, 90, 3), np.uint8)
    expected = run_export(tmp_path / "out/model.keras", images)
    np.testing.assert_allclose(run_export(factored, images), expected, atol=1e-5)
    np.testing.assert_allclose(keras.saving.load_model(factored)(images), expected, atol=1e-5)
    # (12544 x 16) becomes (12544 x 8) and (8 x 16), float32.
    saved = (tmp_path / "out/model.keras").stat().st_size - factored.stat().st_size
    assert saved == pytest.approx(4 * (12544 * 8 - 8 * 16), rel=0.02)
    assert read_card(factored).digest


def test_load_export_with_a_damaged_factor_is_refused(factored: Path, tmp_path: Path) -> None:
    older = remove_digest(factored, tmp_path / "older.keras")
    for name, value in [
        ("dense/vars/0", np.zeros((12544, 7), np.float32)),
        ("dense/vars/0", np.zeros((12543, 8), np.float32)),
        ("dense/vars/0", np.zeros(8, np.float32)),
        ("dense/vars/0", None),
        ("dense_1/vars/1", None),
    ]:
        assert_refused(edit_weights(older, tmp_path / "edited.keras", partial(replace_array, name, value)))


def replace_array(name: str, value: NDArray[np.float32] | None, file: h5py.File) -> None:
    del file[f"layers/sequential/layers/{name}"]
    if value is not None:
        file[f"layers/sequential/layers/{name}"] = value


def test_export_factored_of_other_runs_is_usage_error(
    early_run: Path, reduced_run: Path, early_store: Path, tmp_path: Path, quiet: Console
) -> None:
    ridge, linear, small = tmp_path / "ridge", tmp_path / "linear", tmp_path / "small"
    train_head(TrainConfig(early_store, ridge, solver=SolverName.RIDGE, no_report=True), quiet)
    train_head(TrainConfig(early_store, linear, **REDUCED | {"units": 0, "epochs": 1}), quiet)
    train_head(TrainConfig(early_store, small, **REDUCED | {"units": 4, "epochs": 1}), quiet)
    for run in (early_run, ridge, linear, small):
        with raises(UsageError, where="--factored"):
            export_run(ExportConfig(run, tmp_path / "out", factored=True), quiet)
    assert not (tmp_path / "out").exists()
    assert read_reduced_kernel(Run(reduced_run)).shape == (8, 16)


def test_factor_head_of_a_kernel_with_dependent_rows_is_the_same_function() -> None:
    rng = np.random.default_rng(0)
    reduced = rng.normal(size=(5, 9)).astype(np.float32)
    reduced[4] = reduced[3]
    kernel = rng.normal(size=(40, 5)).astype(np.float32) @ reduced
    head = HeadWeights(kernel, rng.normal(size=9).astype(np.float32), *draw_output(rng))
    found = factor_head(head, reduced)
    assert found.hidden_kernel is not None
    assert [array.shape for array in found.list_weights()] == [(40, 5), (5, 9), (9,), (9, 3), (3,)]
    np.testing.assert_allclose(found.factor @ found.hidden_kernel, kernel, atol=1e-5)
    features = rng.normal(size=(4, 2, 4, 5)).astype(np.float32)
    models = [restore_head(weights, (2, 4, 5), 3, 0.5) for weights in (head, found)]
    np.testing.assert_allclose(models[0](features), models[1](features), atol=1e-6)


def draw_output(rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return rng.normal(size=(9, 3)).astype(np.float32), np.zeros(3, np.float32)
