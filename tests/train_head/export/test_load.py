"""`load_export`: the rebuilt model equals the one that Keras loads, and arrays that do not fit are refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from extract.backbone import cut_backbone, tap_backbone
from extract.decoding.policy import DecodePolicy
from features.options import Pool
from tests.train_head.export.edits import (
    KERNEL,
    Config,
    EditWeights,
    assert_refused,
    edit_json,
    edit_weights,
    read_members,
    remove_digest,
    write_members,
)
from tests.train_head.synthetic import CLASSES, FINGERPRINT, run_export
from train_head.export.load import limit_batch, load_export, read_export
from train_head.export.parity import TOLERANCE
from train_head.export.stitch import save_model, stitch
from train_head.runs.card import CARD_NAME, ModelCard, read_card
from train_head.solvers.head import build_head


@pytest.fixture(scope="session")
def older(tiny_two: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export without a digest, not to be changed."""
    return remove_digest(tiny_two, tmp_path_factory.mktemp("older") / "older.keras")


def draw_images(*sizes: tuple[int, int]) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), np.uint8) for height, width in sizes]


def run_keras(path: Path, images: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
    import keras

    model = keras.saving.load_model(path, compile=False)
    return np.concatenate([np.asarray(model(image[None].astype(np.float32))) for image in images])


@pytest.mark.parametrize(
    ("cut", "pool", "num_classes", "l2"),
    [("mixed0", Pool.NONE, 2, 0.0), ("mixed10", Pool.AVG, 3, 1e-4), ("max_pooling2d_1", Pool.NONE, 40, 0.0)],
)
def test_load_export_equals_the_model_that_keras_loads(
    whole: Any, tmp_path: Path, cut: str, pool: Pool, num_classes: int, l2: float
) -> None:
    backbone = cut_backbone(whole, cut, pool)
    head = build_head(backbone.output_shape[1:], num_classes, 16, 0.5, seed=4, l2=l2)
    classes = [f"class {number}" for number in range(num_classes)]
    path = tmp_path / "model.keras"
    card = ModelCard(classes, 75, str(DecodePolicy()), cut, "none", FINGERPRINT.digest, 0.5)
    card = save_model(stitch(backbone, head, 75), card, path)
    images = [*draw_images((75, 75)), np.full((20, 131, 3), 255, np.uint8), np.zeros((1, 1, 3), np.uint8)]
    outputs = run_export(path, images)
    assert outputs.shape == (3, 1 if num_classes == 2 else num_classes)
    assert np.ptp(outputs, axis=0).max() > 0.01
    np.testing.assert_allclose(outputs, run_keras(path, images), rtol=0, atol=TOLERANCE)
    assert load_export(path)[0] == read_card(path) == card


@pytest.fixture(scope="module")
def two_cuts(whole: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export on the means of two cut layers, not to be changed."""
    cuts, scales = ["mixed1", "max_pooling2d_1"], [0.25, 3.0]
    head = build_head((288 + 192,), 2, 0, 0.0, seed=4)
    backbone = tap_backbone(whole, cuts, Pool.AVG, scales)
    card = ModelCard(["a", "b"], 75, str(DecodePolicy()), ",".join(cuts), "none", "", 0.5, pool="avg", scales=scales)
    path = tmp_path_factory.mktemp("cuts") / "model.keras"
    save_model(stitch(backbone, head, 75), card, path)
    return path


def test_load_export_of_several_cuts_concatenates_their_scaled_means(whole: Any, two_cuts: Path) -> None:
    images = draw_images((75, 75), (90, 60), (75, 75))
    outputs = run_export(two_cuts, images)
    np.testing.assert_allclose(outputs, run_keras(two_cuts, images), rtol=0, atol=1e-6)
    kernel = read_export(two_cuts)[1]["layers/sequential/layers/dense/vars/0"]
    pixels = np.stack([images[0], images[2]]) / np.float32(127.5) - 1
    means = [cut_backbone(whole, cut).predict_on_batch(pixels).mean((1, 2)) for cut in ("mixed1", "max_pooling2d_1")]
    expected = 1 / (1 + np.exp(-np.concatenate([means[0] / 4, 3 * means[1]], 1) @ kernel))
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(outputs[::2], expected, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"scales": [0.25]},
        {"scales": [0.25, -3.0]},
        {"scales": [0.25, float("inf")]},
        {"pool": "none"},
        {"pool": "sum"},
        {"cut": "mixed1,softmax"},
        {"cut": "max_pooling2d_1"},
    ],
)
def test_load_export_with_a_card_of_other_cuts_is_refused(two_cuts: Path, tmp_path: Path, change: Config) -> None:
    path = remove_digest(two_cuts, tmp_path / "older.keras")
    assert_refused(edit_json(path, tmp_path / "model.keras", lambda card: card.update(change), CARD_NAME))


def test_load_export_without_digest_gives_the_same_outputs(tiny_three: Path, tmp_path: Path) -> None:
    path = remove_digest(tiny_three, tmp_path / "older.keras")
    images = draw_images((30, 40), (75, 75))
    np.testing.assert_array_equal(run_export(path, images), run_export(tiny_three, images))
    assert read_card(path).classes == CLASSES


def test_load_export_without_the_oldest_keras_in_its_card_compares_the_digest(tiny_two: Path, tmp_path: Path) -> None:
    """Exports of earlier versions have a digest of a card without the fields that were added since."""
    members = read_members(tiny_two)
    card = json.loads(members.pop(CARD_NAME))
    for name in ("oldest_keras", "pool", "scales", "outlier_threshold", "is_multi_label", "thresholds"):
        del card[name]
    digest = hashlib.sha256(json.dumps(card | {"digest": ""}, sort_keys=True).encode())
    for name, data in sorted(members.items()):
        digest.update(f"\n{name} {len(data)}\n".encode() + data)
    older = members | {CARD_NAME: json.dumps(card | {"digest": digest.hexdigest()}).encode()}
    assert load_export(write_members(tmp_path / "older.keras", older))[0].oldest_keras == ""
    edited = members | {CARD_NAME: json.dumps(card).encode()}
    assert_refused(write_members(tmp_path / "edited.keras", edited))


def test_load_export_ignores_configuration_metadata_and_assets(tiny_two: Path, older: Path, tmp_path: Path) -> None:
    members = read_members(older) | {"config.json": b"[" * 10**6, "assets/../../x": b"x"}
    del members["metadata.json"]
    path = write_members(tmp_path / "model.keras", members)
    images = draw_images((30, 40))
    np.testing.assert_array_equal(run_export(path, images), run_export(tiny_two, images))
    assert list(tmp_path.iterdir()) == [path]


def test_read_export_imports_no_tensorflow(tiny_two: Path) -> None:
    code = "import sys, pathlib, train_head.export.load as l; l.read_export(pathlib.Path(sys.argv[1])); "
    code += "sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(tiny_two)], check=False).returncode == 0


def replace_array(name: str, data: NDArray[Any] | None) -> EditWeights:
    """Replace an array, add it, or remove it if the data is None."""

    def edit(file: h5py.File) -> None:
        if name in file:
            del file[name]
        if data is not None:
            file[name] = data

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        replace_array(KERNEL, None),
        replace_array("layers/functional/layers/conv2d/vars/0", None),
        replace_array("layers/functional/layers/conv2d_1/vars/0", np.zeros((1, 1), np.float32)),
        replace_array("more", np.zeros(3, np.float32)),
        replace_array(KERNEL, np.zeros((32, 4), np.float32)),
        replace_array(KERNEL, np.zeros((33, 3), np.float32)),
        replace_array(KERNEL, np.zeros((1, 10**5), np.float32)),
        replace_array(KERNEL, np.zeros((32, 3), np.float64)),
        replace_array(KERNEL, np.zeros(96, np.float32)),
        replace_array(KERNEL, np.zeros((), np.float32)),
        replace_array(KERNEL, np.full((32, 3), "text", "S4")),
        replace_array("layers/sequential/layers/dense_1/vars/0", np.zeros((3, 2), np.float32)),
        replace_array("layers/functional/layers/conv2d/vars/0", np.zeros((3, 3, 3, 16), np.float32)),
    ],
)
def test_load_export_of_arrays_that_do_not_fit_the_card_is_refused(
    older: Path, tmp_path: Path, edit: EditWeights
) -> None:
    assert_refused(edit_weights(older, tmp_path / "model.keras", edit))


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ["a", "b", "c"]},
        {"classes": [f"class {number}" for number in range(10**5)]},
        {"image_size": 10},
        {"cut": "mixed7"},
        {"cut": "softmax"},
    ],
    ids=["three classes", "many classes", "small pictures", "another cut", "unknown cut"],
)
def test_load_export_with_the_card_of_another_model_is_refused(older: Path, tmp_path: Path, change: Config) -> None:
    assert_refused(edit_json(older, tmp_path / "model.keras", lambda card: card.update(change), CARD_NAME))


def test_load_export_of_a_file_replaced_while_loading_returns_the_model_that_was_read(
    tiny_two: Path, tiny_three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(tiny_two, tmp_path / "model.keras"))

    def read_and_replace(path: Path) -> Any:
        found = read_export(path)
        path.write_bytes(tiny_three.read_bytes())
        return found

    monkeypatch.setattr("train_head.export.load.read_export", read_and_replace)
    images = draw_images((20, 20))
    np.testing.assert_array_equal(run_export(path, images), run_keras(tiny_two, images))


@pytest.mark.unit
def test_limit_batch_of_large_pictures_is_smaller_and_at_least_one() -> None:
    assert [limit_batch(32, size) for size in (75, 150, 299, 512, 1024)] == [32, 32, 32, 16, 4]
    assert limit_batch(1, 1024) == limit_batch(32, 10**4) == 1
