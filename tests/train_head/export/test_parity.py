"""`check_parity` compares an exported model with its parts on pictures."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.terminal import Console, ConsoleOptions
from extract.decoding.decode import decode_image
from extract.engines.tensorflow import TensorFlowEngine
from extract.pixels import prepare_pixels
from features.options import Pool
from features.store import FeatureStore
from tests.pictures import draw_picture, encode, fill_folder
from tests.train_head.synthetic import (
    CLASSES,
    TINY_SIZE,
    build_tiny_backbone,
    build_tiny_head,
    make_store,
)
from train_head.export.load import compile_outputs
from train_head.export.parity import STORED_TOLERANCE, Parity, check_parity, compare_distances, find_flips
from train_head.export.pictures import Pictures
from train_head.export.rebuild import ModelParts
from train_head.export.stitch import stitch

RunHead = Callable[[NDArray[np.float32]], Any]
QUIET = Console(ConsoleOptions(quiet=True))
SOUND = Parity(
    num_pictures=5,
    max_difference=1e-6,
    max_stored_difference=1e-3,
    num_flipped=0,
    num_flips_allowed=0,
    accuracy=1.0,
    stored_accuracy=1.0,
    stored_difference_allowed=0.02,
)


@dataclass(frozen=True)
class Bench:
    """Tiny exported model, its parts, and 40 pictures with stored features."""

    folder: Path
    store: FeatureStore
    run_model: Callable[[Any], Any]
    parts: ModelParts

    def check(
        self, num_wanted: int | None = None, run_head: RunHead | None = None, run_stored: RunHead | None = None
    ) -> Parity:
        head = SimpleNamespace(predict_on_batch=run_head or self.run_head)
        # Without fine-tuning, stored features pass through the head only.
        parts = replace(self.parts, head=head, run_stored=run_stored or run_head or self.run_head)
        pictures = Pictures(self.folder, self.store.examples, TINY_SIZE, io.BytesIO(), num_wanted)
        pictures.load(QUIET)
        return check_parity(self.run_model, parts, self.store, CLASSES[:2], pictures, QUIET)

    def with_precision(self, precision: str) -> Bench:
        """Return a copy whose store records another precision of its features."""
        store = FeatureStore(self.store.path)
        store.contents = replace(store.contents, fingerprint=replace(store.fingerprint, precision=precision))
        return replace(self, store=store)

    def run_head(self, values: NDArray[np.float32]) -> Any:
        return self.parts.head.predict_on_batch(values)


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    fill_folder(folder / "pictures", {"cats": 20, "dogs": 19})
    (folder / "pictures/dogs/red.png").write_bytes(encode(draw_picture("cats", 77, (40, 21))))
    files = sorted((folder / "pictures").rglob("*.*"))
    prepare, engine = partial(prepare_pixels, image_size=TINY_SIZE), TensorFlowEngine(build_tiny_backbone())
    data = [file.read_bytes() for file in files]
    features = engine.run(np.stack([prepare(decode_image(content)) for content in data]))[0]
    store = make_store(
        folder / "store",
        [str(file.relative_to(folder / "pictures")) for file in files],
        features=features,
        contents=[hashlib.sha256(content).digest() for content in data],
    )
    backbone, head = build_tiny_backbone(), build_tiny_head(2)
    parts = ModelParts(backbone, head, head.predict_on_batch, head.predict_on_batch, "pool", Pool.NONE)
    return Bench(folder / "pictures", store, compile_outputs(stitch(backbone, head, TINY_SIZE)), parts)


def test_check_parity_of_a_correct_model_is_ok(bench: Bench) -> None:
    parity = bench.check()
    assert parity.ok
    assert parity.num_pictures == 40
    assert 0 <= parity.max_difference <= 1e-6
    assert 0 < parity.max_stored_difference < 1e-3
    assert (parity.num_flipped, parity.num_gone) == (0, 0)
    assert parity.accuracy == parity.stored_accuracy == 39 / 40


def test_check_parity_with_another_head_reports_the_largest_difference(bench: Bench) -> None:
    parity = bench.check(run_head=lambda values: 1 - bench.run_head(values))
    outputs = [
        float(bench.run_model(decode_image((bench.folder / e.path).read_bytes())[None]).probabilities[0, 0])
        for e in bench.store.examples
    ]
    assert not parity.ok
    assert parity.max_difference == pytest.approx(max(abs(2 * p - 1) for p in outputs), abs=1e-5)
    assert parity.num_flipped == 40


@pytest.mark.parametrize(("precision", "allowed"), [("float32", 0), ("bfloat16", 2), ("int8", 4)])
def test_check_parity_allows_flips_only_for_features_of_lower_precision(
    bench: Bench, precision: str, allowed: int
) -> None:
    assert bench.with_precision(precision).check().num_flips_allowed == allowed


def test_check_parity_with_one_picture_above_the_tolerance_is_not_ok(bench: Bench) -> None:
    calls = 0

    def run_head(values: NDArray[np.float32]) -> Any:
        nonlocal calls
        outputs = np.array(bench.run_head(values))
        if calls == 0:
            outputs[13] += 2e-5
        calls += 1
        return outputs

    parity = bench.check(run_head=run_head)
    assert parity.max_difference == pytest.approx(2e-5, abs=2e-6)
    assert not parity.ok
    assert parity.worst[0]["image"] == bench.store.examples[13].path
    assert parity.worst[0]["difference"] == parity.max_difference


@pytest.mark.parametrize(("precision", "ok"), [("float32", False), ("bfloat16", True), ("int8", True)])
def test_check_parity_with_one_different_stored_feature_lists_its_picture(
    bench: Bench, precision: str, ok: bool
) -> None:
    calls = 0

    def run_stored(values: NDArray[np.float32]) -> Any:
        nonlocal calls
        outputs = np.array(bench.run_head(values))
        if calls == 1:
            outputs[2] += np.where(outputs[2] > 0.9, -0.4, 0.1)
        calls += 1
        return outputs

    parity = bench.with_precision(precision).check(run_stored=run_stored)
    assert parity.max_difference < 1e-6
    assert parity.num_flipped == 0
    assert parity.stored_difference_allowed == STORED_TOLERANCE[precision]
    assert parity.ok is ok
    assert parity.worst[0]["image"] == bench.store.examples[34].path
    assert parity.worst[0]["difference"] == parity.max_stored_difference > 0.09


def test_check_parity_runs_the_parts_separately_on_the_first_pictures_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def run_head(values: NDArray[np.float32]) -> Any:
        sizes.append(len(values))
        return bench.run_head(values)

    monkeypatch.setattr("train_head.export.parity.NUM_SEPARATE", 32)
    parity = bench.check(run_head=run_head, run_stored=bench.run_head)
    assert sizes == [32]
    assert (parity.num_pictures, parity.ok) == (40, True)


def test_check_parity_with_nan_for_the_last_picture_is_not_ok(bench: Bench) -> None:
    def run_head(values: NDArray[np.float32]) -> Any:
        outputs = np.array(bench.run_head(values))
        if len(outputs) == 8:
            outputs[-1] = np.nan
        return outputs

    parity = bench.check(run_head=run_head)
    assert np.isnan(parity.max_difference)
    assert not parity.ok


@pytest.mark.unit
@pytest.mark.parametrize(
    ("parity", "ok"),
    [
        (SOUND, True),
        (replace(SOUND, max_difference=1e-5), True),
        (replace(SOUND, max_difference=1.01e-5), False),
        (replace(SOUND, num_flipped=1), False),
        (replace(SOUND, num_flipped=2, num_flips_allowed=2), True),
        (replace(SOUND, num_flipped=3, num_flips_allowed=2), False),
        (replace(SOUND, max_difference=float("nan")), False),
        (replace(SOUND, max_stored_difference=0.019, accuracy=0.0), True),
        (replace(SOUND, max_stored_difference=0.45), False),
        (replace(SOUND, max_stored_difference=0.45, stored_difference_allowed=0.5), True),
        (replace(SOUND, max_stored_difference=float("nan")), False),
    ],
)
def test_parity_ok_within_all_limits(parity: Parity, ok: bool) -> None:
    assert parity.ok is ok


@pytest.mark.unit
def test_find_flips_ignores_near_ties() -> None:
    stored = np.array([[0.9, 0.1], [0.501, 0.499], [0.502, 0.498], [0.1, 0.9]], np.float32)
    exported = np.array([[0.1, 0.9], [0.499, 0.501], [0.499, 0.501], [0.2, 0.8]], np.float32)
    assert list(find_flips(exported, stored)) == [True, False, True, False]
    assert not find_flips(stored, stored).any()


@pytest.mark.unit
def test_find_flips_of_three_classes_compares_the_two_highest() -> None:
    stored = np.array([[0.4995, 0.0, 0.5005], [0.7, 0.1, 0.2]], np.float32)
    exported = np.array([[0.501, 0.0, 0.499], [0.1, 0.2, 0.7]], np.float32)
    assert list(find_flips(exported, stored)) == [False, True]


def test_check_parity_counts_pictures_that_are_gone_or_changed(bench: Bench, tmp_path: Path) -> None:
    for example in bench.store.examples[5:]:
        (tmp_path / example.path).parent.mkdir(exist_ok=True)
        os.link(bench.folder / example.path, tmp_path / example.path)
    (tmp_path / bench.store.examples[-1].path).unlink()
    (tmp_path / bench.store.examples[-1].path).write_bytes(encode(draw_picture("cats", 999)))
    parity = replace(bench, folder=tmp_path).check()
    assert parity.ok
    assert (parity.num_pictures, parity.num_gone) == (34, 6)
    parity = replace(bench, folder=tmp_path).check(num_wanted=10)
    assert (parity.num_pictures, parity.num_gone) == (10, 5)


@pytest.mark.parametrize(
    ("found", "threshold", "difference"),
    [([1.5, 100.0], 50.0, 0.01), ([1.0, 101.0], 50.0, 0.01), ([1.5, 100.0], 0.0, 0.5), ([np.nan, 100.0], 50.0, np.nan)],
    ids=["below the threshold", "above it", "without a threshold", "NaN"],
)
def test_compare_distances_is_relative_to_the_threshold_or_more(
    found: list[float], threshold: float, difference: float
) -> None:
    pairs = [(np.array(found, np.float32), np.array([1, 100], np.float32))]
    assert compare_distances(pairs, threshold) == pytest.approx(difference, nan_ok=True)
