"""Exported models in earlier versions of Keras, each installed into an environment of its own in .venv/."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from extract.backbone import cut_backbone, tap_backbone
from features.options import Pool
from tests.train_head.export.conftest import CUT
from tests.train_head.synthetic import draw_distance, make_small_card
from train_head.export.factor import factor_head
from train_head.export.stitch import OLDEST_KERAS, save_model, stitch
from train_head.solvers.head import build_head, extract_weights, plan_outputs, restore_head

pytestmark = pytest.mark.keras_versions

VERSIONS = (OLDEST_KERAS, "3.8.0", "3.10.0")
LOCK = Path(__file__).with_name("keras-versions.lock")
"""Other packages of the environments: JAX, the smallest backend that all these versions have."""
ENVIRONMENTS = Path(__file__).parents[3] / ".venv"
NO_NETWORK = 2
"""Exit status of `uv pip install` if it cannot download; it is 1 if no solution exists."""
RUN = """
import sys
import keras, numpy as np
assert keras.__version__ == sys.argv[1], keras.__version__
with np.load(sys.argv[2]) as images:
    for path in sys.argv[3:]:
        model = keras.saving.load_model(path)
        outputs = [model.predict(images[name], verbose=0) for name in images.files]
        if isinstance(outputs[0], dict):
            outputs = [np.hstack([found["probability"], found["distance"]]) for found in outputs]
        np.save(path + ".npy", np.concatenate(outputs))
"""


@pytest.fixture(scope="session")
def models(whole: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Exports with one sigmoid, a softmax, several sigmoids and a factored head, of one and of two cut layers."""
    folder = tmp_path_factory.mktemp("models")
    for pool, num_classes in [(Pool.NONE, 2), (Pool.AVG, 3)]:
        backbone = cut_backbone(whole, CUT, pool)
        head = build_head(backbone.output_shape[1:], num_classes, 16, 0.5, seed=4, l2=1e-4)
        for name, distance in ((f"{num_classes}", None), (f"{num_classes}-distance", draw_distance(backbone))):
            model = stitch(backbone, head, 75, distance)
            save_model(model, make_small_card(num_classes), folder / f"{name}.keras")
    weights = factor_head(extract_weights(head), extract_weights(head).input_kernel[:8])
    head = restore_head(weights, backbone.output_shape[1:], 3, 0.5)
    save_model(stitch(backbone, head, 75), make_small_card(3), folder / "factored.keras")
    head = build_head(backbone.output_shape[1:], plan_outputs(3, is_multi_label=True), 16, 0.5, seed=4)
    card = replace(make_small_card(3), is_multi_label=True, thresholds=[0.5] * 3)
    save_model(stitch(backbone, head, 75), card, folder / "labels.keras")
    cuts, scales = ["mixed0", "mixed1"], [2.0, 0.5]
    model = stitch(tap_backbone(whole, cuts, Pool.AVG, scales), build_head((256 + 288,), 2, 0, 0.0, seed=4), 75)
    save_model(model, make_small_card(2), folder / "cuts.keras")
    return sorted(folder.iterdir())


def install_keras(version: str) -> Path:
    """Return the Python of an environment with this version of Keras, which is created once.

    The test is skipped with a reason if the packages cannot be downloaded.
    """
    folder = ENVIRONMENTS / f"keras-{version}"
    python, installed = folder / "bin/python", folder / "installed.lock"
    if installed.exists() and installed.read_bytes() == LOCK.read_bytes():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    uv = shutil.which("uv", path=Path(sys.executable).parent) or "uv"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    done = subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", python, "--requirement", LOCK, f"keras=={version}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == NO_NETWORK:
        pytest.skip(f"NOT RUN: Keras {version} cannot be installed: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    shutil.copy(LOCK, installed)
    return python


def draw_batches() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    shapes = [(1, 200, 180, 3), (3, 64, 90, 3)]
    return {str(shape): rng.integers(0, 256, shape).astype(np.float32) for shape in shapes}


@pytest.mark.parametrize("version", VERSIONS)
def test_export_in_an_earlier_keras_gives_the_outputs_of_the_pinned_one(
    models: list[Path], tmp_path: Path, version: str
) -> None:
    import keras

    python, batches = install_keras(version), draw_batches()
    copies = [Path(shutil.copy(model, tmp_path)) for model in models]
    np.savez(tmp_path / "images.npz", **batches)  # type: ignore[arg-type]
    command = [str(python), "-I", "-c", RUN, version, str(tmp_path / "images.npz"), *map(str, copies)]
    done = subprocess.run(
        command, env=os.environ | {"KERAS_BACKEND": "jax"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for model, copy in zip(models, copies, strict=True):
        loaded = keras.saving.load_model(model)
        outputs = [loaded(batch) for batch in batches.values()]
        if isinstance(outputs[0], dict):
            outputs = [np.hstack([found["probability"], found["distance"]]) for found in outputs]
        expected = np.concatenate([np.asarray(found) for found in outputs])
        assert np.ptp(expected, axis=0).max() > 0.01
        np.testing.assert_allclose(np.load(f"{copy}.npy"), expected, rtol=1e-4, atol=1e-5)
