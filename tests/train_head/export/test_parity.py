"""The check that stands between a model and its file: on real pictures, against its parts."""

from __future__ import annotations

import hashlib
import io
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import HeadstartError
from base.terminal import Console, ConsoleOptions
from extract.decode import Pixels, decode_image
from extract.engines.tensorflow import TensorFlowEngine
from extract.pixels import prepare_pixels, resize_pixels
from features.store import Example, FeatureStore
from tests.pictures import draw_picture, encode, fill_folder
from tests.train_head.synthetic import (
    CLASSES,
    TINY_SIZE,
    build_tiny_backbone,
    build_tiny_head,
    make_example,
    make_store,
)
from train_head.config import MAX_PIXELS
from train_head.export.load import compile_model
from train_head.export.parity import STORED_TOLERANCE, Parity, check_parity, find_flips
from train_head.export.pictures import PictureGoneError, Pictures, order_by_class
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
    """A tiny exported model, the parts it is made of, and pictures with stored features."""

    folder: Path
    store: FeatureStore
    run_model: Callable[[Any], Any]
    parts: ModelParts

    def check(
        self, num_wanted: int | None = None, run_head: RunHead | None = None, run_stored: RunHead | None = None
    ) -> Parity:
        head = SimpleNamespace(predict_on_batch=run_head or self.run_head)
        # Of a plain run the head is what stored features go through, too.
        parts = replace(self.parts, head=head, run_stored=run_stored or run_head or self.run_head)
        pictures = load(self.folder, self.store.examples, TINY_SIZE, num_wanted)
        return check_parity(self.run_model, parts, self.store, CLASSES[:2], pictures, QUIET)

    def run_head(self, values: NDArray[np.float32]) -> Any:
        return self.parts.head.predict_on_batch(values)


def load(folder: Path, examples: Sequence[Example], *options: Any) -> Pictures:
    image_size, *others = options
    pictures = Pictures(folder, examples, image_size, io.BytesIO(), *others)
    pictures.load(QUIET)
    return pictures


@pytest.fixture(scope="module")
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
    parts = ModelParts(backbone, head, head.predict_on_batch, head.predict_on_batch, "pool")
    return Bench(folder / "pictures", store, compile_model(stitch(backbone, head, TINY_SIZE)), parts)


def test_check_parity_of_a_model_and_its_parts_is_ok(bench: Bench) -> None:
    parity = bench.check()
    assert parity.ok
    assert parity.num_pictures == 40
    assert 0 <= parity.max_difference <= 1e-6
    assert 0 < parity.max_stored_difference < 1e-3
    assert (parity.num_flipped, parity.num_gone) == (0, 0)
    assert parity.accuracy == parity.stored_accuracy == 39 / 40


def test_check_parity_of_a_model_with_another_head_gives_the_largest_difference(bench: Bench) -> None:
    parity = bench.check(run_head=lambda values: 1 - bench.run_head(values))
    outputs = [
        float(bench.run_model(decode_image((bench.folder / e.path).read_bytes())[None])[0, 0])
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
    parity = replace(bench, store=store).check()
    assert parity.num_flips_allowed == allowed


def test_check_parity_of_one_picture_off_by_more_than_the_tolerance_is_not_ok(bench: Bench) -> None:
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


@pytest.mark.parametrize(("precision", "ok"), [("float32", False), ("bfloat16", True)])
def test_check_parity_of_one_stored_feature_that_is_another_names_its_picture(
    bench: Bench, precision: str, ok: bool
) -> None:
    store = FeatureStore(bench.store.path)
    store.contents = replace(store.contents, fingerprint=replace(store.fingerprint, precision=precision))
    calls = 0

    def run_stored(values: NDArray[np.float32]) -> Any:
        nonlocal calls
        outputs = np.array(bench.run_head(values))
        if calls == 1:
            outputs[2] += np.where(outputs[2] > 0.9, -0.4, 0.1)
        calls += 1
        return outputs

    parity = replace(bench, store=store).check(run_stored=run_stored)
    assert parity.max_difference < 1e-6
    assert parity.num_flipped == 0
    assert parity.stored_difference_allowed == STORED_TOLERANCE[precision]
    assert parity.ok is ok
    assert parity.worst[0]["image"] == bench.store.examples[34].path
    assert parity.worst[0]["difference"] == parity.max_stored_difference > 0.09


def test_check_parity_with_nan_for_the_last_picture_is_not_ok(bench: Bench) -> None:
    def run_head(values: NDArray[np.float32]) -> Any:
        outputs = np.array(bench.run_head(values))
        if len(outputs) == 8:
            outputs[-1] = np.nan
        return outputs

    parity = bench.check(run_head=run_head)
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
        (replace(SOUND, max_stored_difference=0.019, accuracy=0.0), True),
        (replace(SOUND, max_stored_difference=0.45), False),
        (replace(SOUND, max_stored_difference=0.45, stored_difference_allowed=0.5), True),
        (replace(SOUND, max_stored_difference=float("nan")), False),
    ],
)
def test_parity_is_ok_within_the_tolerance_and_without_flips(parity: Parity, ok: bool) -> None:
    assert parity.ok is ok


def test_find_flips_finds_other_labels_but_not_near_a_tie() -> None:
    stored = np.array([[0.9, 0.1], [0.501, 0.499], [0.502, 0.498], [0.1, 0.9]], np.float32)
    whole = np.array([[0.1, 0.9], [0.499, 0.501], [0.499, 0.501], [0.2, 0.8]], np.float32)
    assert list(find_flips(whole, stored)) == [True, False, True, False]
    assert not find_flips(stored, stored).any()


def test_find_flips_of_three_classes_looks_at_the_two_highest() -> None:
    stored = np.array([[0.4995, 0.0, 0.5005], [0.7, 0.1, 0.2]], np.float32)
    whole = np.array([[0.501, 0.0, 0.499], [0.1, 0.2, 0.7]], np.float32)
    assert list(find_flips(whole, stored)) == [False, True]


def read_one(folder: Path, example: Example, max_pixels: int = MAX_PIXELS) -> tuple[Pixels, Any]:
    pictures = load(folder, [example], TINY_SIZE, None, max_pixels)
    ((_, (resized,)),) = pictures.read_batches()
    return pictures.raw[0], resized


def test_read_batches_gives_the_pixels_and_the_resized_picture(bench: Bench) -> None:
    example = bench.store.examples[-1]
    assert example.path == "dogs/red.png"
    (raw, resized), pixels = read_one(bench.folder, example), np.asarray(draw_picture("cats", 77, (40, 21)))
    np.testing.assert_array_equal(raw, pixels)
    np.testing.assert_array_equal(resized, resize_pixels(pixels, TINY_SIZE))


@pytest.mark.parametrize("is_edited", [False, True])
def test_read_batches_of_a_missing_or_edited_picture_alone_names_it(
    bench: Bench, tmp_path: Path, is_edited: bool
) -> None:
    example = bench.store.examples[0]
    (tmp_path / "cats").mkdir()
    if is_edited:
        (tmp_path / example.path).write_bytes(encode(draw_picture("cats", 999)))
    with pytest.raises(PictureGoneError) as caught:
        read_one(tmp_path, example)
    assert caught.value.where == tmp_path / example.path


def test_read_batches_of_a_file_that_is_no_picture_gives_the_reason(tmp_path: Path) -> None:
    page = b"<!doctype html><p>Not found"
    (tmp_path / "page.jpg").write_bytes(page)
    example = Example("page.jpg", "cats", "", hashlib.sha256(page).digest(), 1, 0)
    with pytest.raises(HeadstartError) as caught:
        read_one(tmp_path, example)
    assert not isinstance(caught.value, PictureGoneError)
    assert "web page" in caught.value.got


def test_check_parity_passes_over_pictures_that_are_gone_or_changed(bench: Bench, tmp_path: Path) -> None:
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


def test_check_parity_with_every_picture_gone_stops_with_the_first(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(PictureGoneError) as caught:
        replace(bench, folder=tmp_path).check()
    assert caught.value.where == tmp_path / bench.store.examples[0].path


def test_read_batches_of_a_picture_with_more_pixels_than_allowed_stops_with_its_name(bench: Bench) -> None:
    with pytest.raises(HeadstartError, match=r"90 x 80 pixels, above the limit of 1,000") as caught:
        read_one(bench.folder, bench.store.examples[0], 1000)
    assert not isinstance(caught.value, PictureGoneError)


@pytest.mark.parametrize("num_wanted", [1, 7, 33, 100])
def test_check_parity_of_some_pictures_takes_the_first(bench: Bench, num_wanted: int) -> None:
    parity = bench.check(num_wanted)
    assert parity.num_pictures == min(num_wanted, 40)


def test_check_parity_decodes_few_pictures_at_a_time_and_holds_none_of_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0

    @contextmanager
    def hold(data: bytes, max_pixels: int) -> Iterator[Any]:
        nonlocal most
        pixels = np.array(decode_image(data, max_pixels))
        alive.append(weakref.ref(pixels))
        most = max(most, sum(ref() is not None for ref in alive))
        yield pixels

    monkeypatch.setattr("train_head.export.pictures.decode_within_budget", hold)
    monkeypatch.setattr("train_head.export.pictures.NUM_RAW", 0)
    assert bench.check().ok
    assert len(alive) == 40
    assert most <= 4


def test_order_by_class_of_one_class_in_ten_keeps_its_share_in_any_first_part() -> None:
    examples = [make_example(f"{'owls' if number % 10 == 0 else 'cats'}/{number}.jpg") for number in range(200)]
    ordered = order_by_class(examples)
    assert sorted(ordered, key=lambda e: e.path) == sorted(examples, key=lambda e: e.path)
    for num in (2, 20, 50, 100):
        assert sum(e.label == "owls" for e in ordered[:num]) == pytest.approx(num / 10, abs=1)
    assert {e.label for e in ordered[:2]} == {"cats", "owls"}
    for label in ("cats", "owls"):
        hashes = [e.content_hash for e in ordered if e.label == label]
        assert hashes == sorted(hashes)


def test_order_by_class_depends_on_content_alone() -> None:
    examples = [make_example(f"{label}/{number}.jpg") for label in ("cats", "dogs") for number in range(30)]
    moved = [e._replace(path=f"{e.label}/x{99 - n}.jpg", shard=9 - n % 3, row=n) for n, e in enumerate(examples)]
    first = [e.content_hash for e in order_by_class(examples)]
    assert [e.content_hash for e in order_by_class(moved[::-1])] == first


def test_read_batches_resizes_as_extraction_does_in_batches_of_bounded_size(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train_head.export.load.MAX_PIXELS_AT_ONCE", 3 * 50**2)
    pictures = load(bench.folder, bench.store.examples, 50, 8)
    batches = list(pictures.read_batches())
    assert [list(places) for places, _ in batches] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert pictures.loaded == bench.store.examples[:8]
    decoded = [decode_image((bench.folder / example.path).read_bytes()) for example in pictures.loaded]
    expected = np.stack([resize_pixels(pixels, 50) for pixels in decoded])
    np.testing.assert_array_equal(np.concatenate([resized for _, resized in batches]), expected)
