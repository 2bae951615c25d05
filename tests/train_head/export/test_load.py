"""Loading an exported model: rebuilt in code, equal to what Keras loads, and refused where it is damaged or edited."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from base.terminal import Console
from extract.backbone import build_backbone, cut_backbone
from extract.decode import DECODE_POLICY
from extract.weights.find import Weights, WeightsName
from features.schema import Pool
from tests.train_head.export.edits import (
    KERNEL,
    Config,
    edit_json,
    edit_weights,
    read_members,
    refuse,
    remove_digest,
    write_members,
)
from tests.train_head.synthetic import CLASSES, FINGERPRINT, run_export
from train_head.export.load import limit_batch, load_export, read_export
from train_head.export.stitch import save_model, stitch
from train_head.runs.card import CARD_NAME, ModelCard, read_card
from train_head.solvers.head import build_head

MAX_BYTES = 2**24
"""Of memory, to refuse a model of 200 kB."""


def draw_images(*sizes: tuple[int, int]) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), np.uint8) for height, width in sizes]


def run_keras(path: Path, images: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
    model = keras.saving.load_model(path, compile=False)
    return np.concatenate([np.asarray(model(image[None].astype(np.float32))) for image in images])


@pytest.mark.parametrize(
    ("cut", "pool", "num_classes", "l2"),
    [("mixed0", Pool.NONE, 2, 0.0), ("mixed10", Pool.AVG, 3, 1e-4), ("mixed10", Pool.NONE, 40, 0.0)],
)
def test_load_export_rebuilds_what_keras_loads(
    tmp_path: Path, cut: str, pool: Pool, num_classes: int, l2: float
) -> None:
    backbone = cut_backbone(build_backbone(75, Weights(WeightsName.RANDOM)), cut, pool)
    for layer in backbone.layers:
        # Statistics of a normalisation are none and ones where it is new.
        layer.set_weights([np.abs(array) + 0.1 if array.ndim == 1 else array for array in layer.get_weights()])
    head = build_head(backbone.output_shape[1:], num_classes, 5, 0.5, seed=3, l2=l2)
    classes = [f"class {number}" for number in range(num_classes)]
    path = tmp_path / "model.keras"
    card = ModelCard(classes, 75, DECODE_POLICY, cut, "none", FINGERPRINT.digest, 0.5)
    card = save_model(stitch(backbone, head, 75), card, path)
    images = draw_images((75, 75), (20, 131), (1, 1))
    outputs = run_export(path, images)
    assert outputs.shape == (3, 1 if num_classes == 2 else num_classes)
    assert np.ptp(outputs, axis=0).max() > 1e-4
    np.testing.assert_allclose(outputs, run_keras(path, images), rtol=0, atol=1e-6)
    assert load_export(path)[0] == read_card(path) == card


def test_load_export_from_before_the_digest_gives_the_same(tiny_three: Path, tmp_path: Path) -> None:
    path = remove_digest(tiny_three, tmp_path / "older.keras")
    images = draw_images((30, 40), (75, 75))
    np.testing.assert_array_equal(run_export(path, images), run_export(tiny_three, images))
    assert read_card(path).classes == CLASSES


def test_load_export_reads_no_configuration(tiny_two: Path, tmp_path: Path) -> None:
    members = read_members(remove_digest(tiny_two, tmp_path / "model.keras"))
    del members["metadata.json"]
    path = write_members(tmp_path / "model.keras", members | {"config.json": b"[" * 10**6, "assets/../../x": b"x"})
    images = draw_images((30, 40))
    np.testing.assert_array_equal(run_export(path, images), run_export(tiny_two, images))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.keras"]


def test_load_export_of_one_that_was_packed_again_under_another_name_is_the_same(
    tiny_two: Path, tmp_path: Path
) -> None:
    members = read_members(tiny_two)
    assert load_export(write_members(tmp_path / "any name", members))[0] == read_card(tiny_two)
    # Members that are larger than the file, as in a bomb.
    refuse(write_members(tmp_path / "small", members, zipfile.ZIP_DEFLATED))


def test_read_export_needs_no_tensorflow(tiny_two: Path) -> None:
    code = "import sys, pathlib, train_head.export.load as l; l.read_export(pathlib.Path(sys.argv[1])); "
    code += "sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(tiny_two)], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        (CARD_NAME, lambda c: c.update(classes=c["classes"][::-1])),
        (CARD_NAME, lambda c: c.update(val_accuracy=0.9)),
        (CARD_NAME, lambda c: c.pop("digest") and c.update(weights_sha256="0" * 64)),
        ("config.json", lambda c: c.update(name="other")),
        ("metadata.json", lambda c: c.update(date_saved="2026-01-01")),
    ],
)
def test_load_export_edited_after_it_was_made_is_refused(
    tiny_two: Path, tmp_path: Path, name: str, edit: Callable[[Config], object]
) -> None:
    assert "digest" in refuse(edit_json(tiny_two, tmp_path / "model.keras", edit, name)).got


def test_load_export_with_other_numbers_or_members_is_refused(tiny_two: Path, tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        file[KERNEL][...] = 50

    assert "digest" in refuse(edit_weights(tiny_two, tmp_path / "model.keras", edit)).got
    members = read_members(tiny_two)
    for name in ("../../evil", "/tmp/evil", "assets/../../evil", "evil.tar"):
        assert "digest" in refuse(write_members(tmp_path / "model.keras", members | {name: b"payload"})).got
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]


@pytest.mark.parametrize("name", [CARD_NAME, "model.weights.h5"])
def test_load_export_without_its_card_or_weights_is_refused(tiny_two: Path, tmp_path: Path, name: str) -> None:
    members = read_members(remove_digest(tiny_two, tmp_path / "older.keras"))
    del members[name]
    assert name in refuse(write_members(tmp_path / "model.keras", members)).got


def put(name: str, data: NDArray[Any] | None) -> Callable[[h5py.File], None]:
    """Replace an array, or remove it."""

    def edit(file: h5py.File) -> None:
        if name in file:
            del file[name]
        if data is not None:
            file[name] = data

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        put(KERNEL, None),
        put("layers/functional/layers/conv2d/vars/0", None),
        put("layers/functional/layers/conv2d_1/vars/0", np.zeros((1, 1), np.float32)),
        put("more", np.zeros(3, np.float32)),
        put(KERNEL, np.zeros((32, 4), np.float32)),
        put(KERNEL, np.zeros((33, 3), np.float32)),
        put(KERNEL, np.zeros((1, 10**5), np.float32)),
        put(KERNEL, np.zeros((32, 3), np.float64)),
        put(KERNEL, np.zeros(96, np.float32)),
        put(KERNEL, np.full((32, 3), "text", "S4")),
        put("layers/sequential/layers/dense_1/vars/0", np.zeros((3, 2), np.float32)),
        put("layers/functional/layers/conv2d/vars/0", np.zeros((3, 3, 3, 16), np.float32)),
    ],
)
def test_load_export_with_other_arrays_than_its_card_describes_is_refused(
    tiny_two: Path, tmp_path: Path, edit: Callable[[h5py.File], None]
) -> None:
    older = remove_digest(tiny_two, tmp_path / "older.keras")
    refuse(edit_weights(older, tmp_path / "model.keras", edit))


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ["one"]},
        {"classes": ["a", "b", "c"]},
        {"classes": [f"class {number}" for number in range(10**5)]},
        {"classes": ["cats", "cats"]},
        {"classes": 5},
        {"image_size": 10**6},
        {"image_size": True},
        {"image_size": 10},
        {"cut": "mixed7"},
        {"cut": "softmax"},
        {"cut": 3},
        {"val_accuracy": 1.5},
        {"val_accuracy": float("nan")},
        {"val_accuracy": True},
        {"decode_policy": 7},
        {"payload": 1},
    ],
    ids=str,
)
def test_load_export_with_a_card_that_no_export_has_is_refused(tiny_two: Path, tmp_path: Path, change: Config) -> None:
    older = remove_digest(tiny_two, tmp_path / "older.keras")
    refuse(edit_json(older, tmp_path / "model.keras", lambda card: card.update(change), CARD_NAME))


def declare(**options: Any) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[KERNEL]
        file.create_dataset(KERNEL, **options)

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        declare(shape=(10**5, 10**4), dtype="f4"),
        declare(shape=(10**9,), dtype="f4", chunks=(10**6,), compression="gzip"),
        declare(data=np.zeros(10**8, "u1"), compression="gzip"),
    ],
)
def test_load_export_that_declares_more_than_is_stored_is_refused_without_memory(
    tiny_two: Path, tmp_path: Path, edit: Callable[[h5py.File], None]
) -> None:
    path = edit_weights(remove_digest(tiny_two, tmp_path / "older.keras"), tmp_path / "model.keras", edit)
    tracemalloc.start()
    try:
        refuse(path)
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()


def test_load_export_that_is_replaced_after_it_was_read_is_the_one_that_was_read(
    tiny_two: Path, tiny_three: Path, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(tiny_two, tmp_path / "model.keras"))

    def read_and_replace(path: Path) -> Any:
        found = read_export(path)
        path.write_bytes(tiny_three.read_bytes())
        return found

    monkeypatch.setattr("train_head.export.load.read_export", read_and_replace)
    images = draw_images((20, 20))
    np.testing.assert_array_equal(run_export(path, images), run_keras(tiny_two, images))


def test_limit_batch_is_smaller_for_large_pictures_and_never_empty() -> None:
    assert [limit_batch(32, size) for size in (75, 150, 299, 512, 1024)] == [32, 32, 32, 16, 4]
    assert limit_batch(1, 1024) == limit_batch(32, 10**4) == 1
