"""Comparison of the engine with plain Keras, before the first features of a store are computed."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.terminal import Console, ConsoleOptions
from extract import cut_backbone
from extract.config import EngineName, Precision
from extract.decoding.decode import DEFAULT_POLICY
from extract.engines import Engine
from extract.engines.processor import find_processor
from extract.images.scan import scan_images
from extract.plan import hash_path
from extract.reference import WrongEngineError, compare_with_keras, measure_errors
from extract.weights.find import Weights, WeightsName
from tests.errors import raises
from tests.extract.extraction import configure, extract
from tests.pictures import fill_folder

Outputs = list[NDArray[np.float32]]
Change = Callable[[Outputs], Outputs]


class ChangedEngine:
    """Engine that changes the outputs of another one."""

    def __init__(self, engine: Engine, change: Change) -> None:
        self._engine, self._change = engine, change

    def run(self, batch: NDArray[np.float32]) -> Outputs:
        return self._change([output.copy() for output in self._engine.run(batch)])


def set_nan(outputs: Outputs) -> Outputs:
    outputs[0][-1, 0, 0, 0] = np.nan
    return outputs


CHANGES: dict[str, Change] = {
    "zeros": lambda outputs: [np.zeros_like(output) for output in outputs],
    "noise": lambda outputs: [np.random.default_rng(0).normal(size=o.shape).astype(np.float32) for o in outputs],
    "NaN": set_nan,
    "other rows": lambda outputs: [np.roll(output, 1, axis=0) for output in outputs],
    "other channels": lambda outputs: [np.roll(output, 1, axis=-1) for output in outputs],
    "saturated": lambda outputs: [np.minimum(output, np.quantile(output, 0.9)) for output in outputs],
}


@pytest.fixture(autouse=True)
def _compare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare in every extraction; the other tests do not."""
    monkeypatch.setattr("extract.run.compare_with_keras", compare_with_keras)


def change_engine(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    build = vars(cut_backbone)["build_engine"]  # Builds each engine once.
    monkeypatch.setattr(cut_backbone, "build_engine", lambda *given: ChangedEngine(build(*given), change))


@pytest.mark.parametrize("name", CHANGES)
def test_extract_with_a_wrong_engine_writes_nothing(
    shared_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    change_engine(monkeypatch, CHANGES[name])
    with raises(WrongEngineError, where="--engine tensorflow --precision float32") as caught:
        extract(shared_pictures, tmp_path / "new")
    assert find_processor().name in caught.value.got
    assert not (tmp_path / "new").exists()


def test_extract_with_a_wrong_engine_does_not_rename_the_earlier_store(
    shared_pictures: Path, shared_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = shutil.copytree(shared_store, tmp_path / "store")
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    change_engine(monkeypatch, CHANGES["zeros"])
    with pytest.raises(WrongEngineError):
        extract(shared_pictures, store, new_store=True)
    assert list(tmp_path.iterdir()) == [store]
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before


def test_extract_with_one_wrong_output_names_its_cut(
    shared_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_engine(monkeypatch, lambda outputs: [outputs[0], 2 * outputs[1]])
    with pytest.raises(WrongEngineError) as caught:
        extract(shared_pictures, tmp_path / "stores", cut="mixed0,mixed1")
    assert "mixed1" in caught.value.got.split()
    assert not (tmp_path / "stores").exists()


def test_extract_compares_in_the_first_run_only(
    small_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def count(*given: Any) -> NDArray[np.float64]:
        differences = compare_with_keras(*given)
        counts.append(differences.shape[1])
        return differences

    monkeypatch.setattr("extract.run.compare_with_keras", count)
    store = tmp_path / "stores/mixed0"
    assert extract(small_pictures, store).computed == 16
    fill_folder(small_pictures, {"train/cats": 1}, start=500)
    assert (extract(small_pictures, store).computed, extract(small_pictures, store).computed) == (1, 0)
    assert counts == [8]
    assert extract(small_pictures, store.parent, cut="mixed0,mixed1").computed == 17
    assert counts == [8, 8], "the store of another cut is new"


def compare(images: Path, **options: Any) -> int:
    """Compare the TensorFlow engine in float32, whatever the options; return the number of pictures."""
    plain, weights = configure(images, images, engine=EngineName.TENSORFLOW), Weights(WeightsName.RANDOM)
    built = cut_backbone.CutBackbone(plain, weights, Console(ConsoleOptions(quiet=True)))
    config = dataclasses.replace(plain, **options)
    return len(compare_with_keras(scan_images(images, []).images, config, built, DEFAULT_POLICY)[0])


def test_compare_with_keras_uses_the_first_usable_pictures_in_the_order_of_reading(
    small_pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compare(small_pictures) == 8
    ordered = sorted(scan_images(small_pictures, []).images, key=hash_path)
    for image in ordered[:7]:
        (small_pictures / image.path).write_bytes(b"no picture")
    assert compare(small_pictures) == 8
    (small_pictures / ordered[7].path).write_bytes(b"no picture")
    for image in ordered[9:]:
        (small_pictures / image.path).unlink()
    assert compare(small_pictures) == 1
    change_engine(monkeypatch, CHANGES["zeros"])
    with pytest.raises(WrongEngineError) as caught:
        compare(small_pictures)
    assert ordered[8].path in caught.value.got.split()
    (small_pictures / ordered[8].path).write_bytes(b"no picture")
    assert compare(small_pictures) == 0


@pytest.mark.parametrize(
    ("engine", "precision", "way_back"),
    [
        ("openvino", "float32", "--engine tensorflow"),
        ("openvino", "bfloat16", "--engine tensorflow"),
        ("openvino", "int8", "--engine tensorflow --precision float32"),
        ("tensorflow", "bfloat16", "--precision float32"),
        ("tensorflow", "float32", "--engine openvino"),
    ],
)
def test_compare_with_keras_names_engine_precision_and_the_way_back(
    shared_pictures: Path, monkeypatch: pytest.MonkeyPatch, engine: str, precision: str, way_back: str
) -> None:
    change_engine(monkeypatch, CHANGES["other channels"])
    with raises(WrongEngineError, where=f"--engine {engine} --precision {precision}") as caught:
        compare(shared_pictures, engine=EngineName(engine), precision=Precision(precision))
    assert caught.value.advice.endswith(way_back)


def test_measure_errors_are_relative_to_the_expected_rows_or_to_their_mean() -> None:
    expected = np.array([[30, 40], [0, 0], [6, 8], [1, np.inf], [30, 40]], np.float32)
    computed = np.array([[30, 45], [0, 1], [0, 0], [1, 2], [np.nan, 1]], np.float32)
    mean = np.sqrt((2500 + 100 + 2500) / 4)
    np.testing.assert_allclose(measure_errors(computed, expected), [0.1, 1 / mean, 10 / mean, 0, np.nan])
    zeros = np.zeros((2, 2), np.float32)
    np.testing.assert_array_equal(measure_errors(zeros, zeros), [0, 0])
    np.testing.assert_array_equal(measure_errors(zeros, np.full((2, 2), np.nan, np.float32)), [0, 0])
