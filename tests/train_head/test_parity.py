"""The check that stands between a model and its file: on real pictures, against its parts."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from extract.decode import decode_image
from extract.engines.tensorflow import TensorFlowEngine
from extract.pixels import prepare_pixels
from features.errors import HeadstartError
from features.store import Example, FeatureStore
from tests.pictures import draw_picture, encode, fill_folder
from tests.train_head.made import TINY_SIZE, build_tiny_backbone, build_tiny_head, make_store
from train_head.exported import ExportedModel
from train_head.parity import Parity, Parts, check_parity, count_flips, read_unchanged

SOUND = Parity(
    num_pictures=5,
    max_difference=1e-6,
    max_stored_difference=1e-3,
    num_flipped=0,
    num_flips_allowed=0,
    accuracy=1.0,
)


@dataclass(frozen=True)
class Bench:
    """A tiny exported model, the parts it is made of, and pictures with stored features."""

    folder: Path
    store: FeatureStore
    exported: ExportedModel
    parts: Parts

    def check(self, **changes: object) -> tuple[Parity, int]:
        advanced: list[int] = []
        if "run_head" in changes:
            # Of a plain run the head is what stored features go through, too.
            changes["run_stored"] = changes["run_head"]
        parts = replace(self.parts, **changes)  # type: ignore[arg-type]
        read = partial(read_unchanged, self.folder)
        parity = check_parity(self.exported, parts, self.store, read, self.store.examples, advanced.append)
        return parity, sum(advanced)


@pytest.fixture(scope="module")
def bench(tiny_two: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
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
    head = build_tiny_head(2)
    run_head = head.predict_on_batch
    parts = Parts(prepare, lambda values: engine.run(values)[0], lambda values: run_head(values), run_head)
    return Bench(folder / "pictures", store, ExportedModel(tiny_two), parts)


def test_check_parity_of_a_model_and_its_parts_is_ok(bench: Bench) -> None:
    parity, advanced = bench.check()
    assert parity.ok
    assert parity.num_pictures == advanced == 40
    assert 0 <= parity.max_difference <= 1e-6
    assert 0 < parity.max_stored_difference < 1e-3
    assert parity.num_flipped == 0
    assert parity.accuracy == 39 / 40


def test_check_parity_of_a_model_with_another_head_gives_the_largest_difference(bench: Bench) -> None:
    parity, _ = bench.check(run_head=lambda values: 1 - bench.parts.run_head(values))
    outputs = [
        float(next(iter(bench.exported.predict([decode_image((bench.folder / e.path).read_bytes())], 1)))[0])
        for e in bench.store.examples
    ]
    assert not parity.ok
    assert parity.max_difference == pytest.approx(max(abs(2 * p - 1) for p in outputs), abs=1e-5)
    assert parity.num_flipped == 40


@pytest.mark.parametrize(("precision", "allowed"), [("float32", 0), ("bfloat16", 2)])
def test_check_parity_allows_other_labels_only_for_features_of_another_precision(
    bench: Bench, precision: str, allowed: int
) -> None:
    store = FeatureStore(bench.store.path)
    fingerprint = replace(store.fingerprint, precision=precision)
    store.contents = replace(store.contents, fingerprint=fingerprint)
    parity, _ = replace(bench, store=store).check()
    assert parity.num_flips_allowed == allowed


def test_check_parity_of_one_picture_off_by_more_than_the_tolerance_is_not_ok(bench: Bench) -> None:
    calls = 0

    def run_head(values: NDArray[np.float32]) -> Any:
        nonlocal calls
        outputs = np.array(bench.parts.run_head(values))
        if calls == 0:
            outputs[3] += 2e-5
        calls += 1
        return outputs

    parity, _ = bench.check(run_head=run_head)
    assert parity.max_difference == pytest.approx(2e-5, abs=2e-6)
    assert not parity.ok


def test_check_parity_with_nan_for_the_last_picture_is_not_ok(bench: Bench) -> None:
    def run_head(values: NDArray[np.float32]) -> Any:
        outputs = np.array(bench.parts.run_head(values))
        if len(outputs) == 8:
            outputs[-1] = np.nan
        return outputs

    parity, _ = bench.check(run_head=run_head)
    assert np.isnan(parity.max_difference)
    assert not parity.ok


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
        (replace(SOUND, max_stored_difference=0.4, accuracy=0.0), True),
    ],
)
def test_parity_is_ok_within_the_tolerance_and_without_flips(parity: Parity, ok: bool) -> None:
    assert parity.ok is ok


def test_count_flips_counts_other_labels_but_not_near_a_tie() -> None:
    stored = np.array([[0.9, 0.1], [0.501, 0.499], [0.502, 0.498], [0.1, 0.9]], np.float32)
    whole = np.array([[0.1, 0.9], [0.499, 0.501], [0.499, 0.501], [0.2, 0.8]], np.float32)
    assert count_flips(whole, stored) == 2
    assert count_flips(stored, stored) == 0


def test_count_flips_of_three_classes_looks_at_the_two_highest() -> None:
    stored = np.array([[0.4995, 0.0, 0.5005], [0.7, 0.1, 0.2]], np.float32)
    whole = np.array([[0.501, 0.0, 0.499], [0.1, 0.2, 0.7]], np.float32)
    assert count_flips(whole, stored) == 1


def test_read_unchanged_returns_the_pixels(bench: Bench) -> None:
    example = bench.store.examples[-1]
    assert example.path == "dogs/red.png"
    np.testing.assert_array_equal(read_unchanged(bench.folder, example), np.asarray(draw_picture("cats", 77, (40, 21))))


def test_read_unchanged_of_an_edited_picture_names_it(bench: Bench, tmp_path: Path) -> None:
    example = bench.store.examples[0]
    (tmp_path / "cats").mkdir()
    (tmp_path / example.path).write_bytes(encode(draw_picture("cats", 999)))
    with pytest.raises(
        HeadstartError, match=r"cats/000\.jpg: expected the picture that its feature .*got a changed file"
    ):
        read_unchanged(tmp_path, example)


def test_read_unchanged_of_a_missing_picture_names_it_and_says_images(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(HeadstartError) as caught:
        read_unchanged(tmp_path, bench.store.examples[0])
    assert str(caught.value) == (
        f"{tmp_path}/cats/000.jpg: expected a validation picture to check the export on, "
        "got cannot be read: No such file or directory. "
        "Give the folder with --images, --max-pixels as in extraction, or extract and train again."
    )


def test_read_unchanged_of_a_file_that_is_no_picture_says_why(tmp_path: Path) -> None:
    page = b"<!doctype html><p>Not found"
    (tmp_path / "page.jpg").write_bytes(page)
    example = Example("page.jpg", "cats", "", hashlib.sha256(page).digest(), 1, 0)
    with pytest.raises(HeadstartError, match=r"page\.jpg: expected a validation picture .*, got not a picture: .*web"):
        read_unchanged(tmp_path, example)


def test_check_parity_with_a_missing_picture_stops_with_its_name(bench: Bench, tmp_path: Path) -> None:
    for example in bench.store.examples[:-1]:
        (tmp_path / example.path).parent.mkdir(exist_ok=True)
        os.link(bench.folder / example.path, tmp_path / example.path)
    with pytest.raises(HeadstartError, match=r"dogs/red\.png: expected a validation picture"):
        replace(bench, folder=tmp_path).check()
