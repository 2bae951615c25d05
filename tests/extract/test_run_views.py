"""Stage one with several views, several cuts, and pooling: the same bits, whichever way they came about."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import (
    FeatureStoreError,
    FingerprintMismatchError,
    HeadstartError,
    StoreMissingError,
    UsageError,
)
from base.terminal import Console, ConsoleOptions
from extract.backbone import cut_backbone
from extract.config import ExtractConfig
from extract.decode import decode_image
from extract.engines.tensorflow import TensorFlowEngine
from extract.loop import ExtractionLoop
from extract.run import ExtractResult, extract_features
from extract.stores import OtherFolderError
from extract.views import compile_views
from features.maintenance.check import find_problems
from features.schema import FeatureKey, Features, ImageStatus, Pool
from features.store import FeatureStore
from features.writer import FeatureWriter
from tests.pictures import fill_folder

if TYPE_CHECKING:
    import keras

CUTS = ("mixed0", "mixed1")


@pytest.fixture(scope="module", autouse=True)
def build_once(backbone: keras.Model) -> Iterator[None]:
    """Lends every run the backbone that it would build: random weights, 75 px."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extract.backbone.build_backbone", lambda *_: backbone)
        yield


def extract(images: Path, store: Path, **options: Any) -> ExtractResult:
    defaults: dict[str, Any] = {"weights": "random", "image_size": 75, "cut": "mixed0", "batch_size": 4}
    return extract_features(ExtractConfig(images, store, **(defaults | options)), Console(ConsoleOptions(quiet=True)))


def read_all(path: Path) -> dict[FeatureKey, Features]:
    store = FeatureStore(path)
    found = {}
    for key, place in store.contents.locations.items():
        found[key] = np.empty((1, *store.feature_shape), np.float16)
        store.contents.read_rows(place.shard, [place.row], found[key])
    return found


def assert_equal(found: Path, expected: Path) -> None:
    """Two stores hold the same keys with the same bits, and the same pictures."""
    features, others = read_all(found), read_all(expected)
    assert features.keys() == others.keys()
    for key, feature in features.items():
        np.testing.assert_array_equal(feature.view(np.uint16), others[key].view(np.uint16))
    assert FeatureStore(found).fingerprint == FeatureStore(expected).fingerprint
    assert [e[:4] for e in FeatureStore(found).examples] == [e[:4] for e in FeatureStore(expected).examples]
    assert find_problems(found, read_data=True, images=None, advance=lambda _: None) == []


def hash_contents(folder: Path, paths: Iterable[Path]) -> set[bytes]:
    return {hashlib.sha256((folder / path).read_bytes()).digest() for path in paths}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures to train on and three to validate; never changed."""
    folder = tmp_path_factory.mktemp("views") / "pictures"
    fill_folder(folder, {"train/cats": 3, "train/dogs": 3})
    fill_folder(folder, {"validation/cats": 2, "validation/dogs": 1}, start=50)
    return folder


@pytest.fixture(scope="module")
def one_view(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of mixed0 without augmentations; never changed."""
    store = tmp_path_factory.mktemp("one") / "store"
    assert extract(pictures, store).computed == 9
    return store


@pytest.fixture(scope="module")
def three_views(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of mixed0 with two augmentations of each training picture; never changed."""
    store = tmp_path_factory.mktemp("three") / "store"
    assert extract(pictures, store, views=3).computed == 9
    return store


# Views.


def test_extract_views_are_stored_for_training_pictures_alone(pictures: Path, three_views: Path) -> None:
    train = hash_contents(pictures, pictures.glob("train/*/*.jpg"))
    validation = hash_contents(pictures, pictures.glob("validation/*/*.jpg"))
    assert (len(train), len(validation)) == (6, 3)
    expected = {FeatureKey(content, view) for content in train for view in range(3)}
    assert read_all(three_views).keys() == expected | {FeatureKey(content, 0) for content in validation}
    store = FeatureStore(three_views)
    assert (store.num_views, len(store.examples), store.num_pending) == (3, 9, 0)


def test_extract_views_of_an_unsplit_folder_are_stored_for_every_picture(tmp_path: Path) -> None:
    fill_folder(tmp_path / "pictures", {"cats": 2, "dogs": 2})
    assert extract(tmp_path / "pictures", tmp_path / "store", views=3).computed == 4
    contents = hash_contents(tmp_path, (tmp_path / "pictures").glob("*/*.jpg"))
    assert read_all(tmp_path / "store").keys() == {
        FeatureKey(content, view) for content in contents for view in range(3)
    }


def test_extract_views_are_keras_features_of_the_augmented_pictures(
    pictures: Path, three_views: Path, backbone: keras.Model
) -> None:
    prepare, model = compile_views(75, 0), cut_backbone(backbone, "mixed0")
    features = read_all(three_views)
    for path in ("train/cats/001.jpg", "train/dogs/002.jpg"):
        data = (pictures / path).read_bytes()
        content_hash = hashlib.sha256(data).digest()
        views = prepare(decode_image(data), content_hash, range(3))
        expected = model(np.stack([views[view] for view in range(3)]), training=False).numpy()
        found = np.concatenate([features[FeatureKey(content_hash, view)] for view in range(3)])
        np.testing.assert_allclose(found, expected, rtol=2**-10, atol=1e-4 * float(expected.std()))
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert np.abs(expected[one] - expected[other]).mean() > 0.02 * expected[0].mean()


def test_extract_view_0_is_the_same_to_the_bit_with_and_without_augmentations(
    one_view: Path, three_views: Path
) -> None:
    alone, beside = read_all(one_view), read_all(three_views)
    assert len(alone) == 9
    for key, feature in alone.items():
        np.testing.assert_array_equal(feature, beside[key])
    assert FeatureStore(one_view).fingerprint == FeatureStore(three_views).fingerprint


def test_extract_twice_from_scratch_gives_equal_features_whatever_names_order_and_batches(
    pictures: Path, three_views: Path, tmp_path: Path
) -> None:
    renamed = tmp_path / "renamed"
    for number, path in enumerate(sorted(pictures.rglob("*.jpg"), reverse=True)):
        target = renamed / path.relative_to(pictures).parent / f"new {number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    assert extract(renamed, tmp_path / "store", views=3, batch_size=7, threads=1).computed == 9
    found, expected = read_all(tmp_path / "store"), read_all(three_views)
    assert found.keys() == expected.keys()
    for key, feature in found.items():
        np.testing.assert_array_equal(feature, expected[key])


def test_extract_more_views_into_a_store_computes_what_is_missing_and_touches_nothing_else(
    pictures: Path, one_view: Path, three_views: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = shutil.copytree(one_view, tmp_path / "store")
    before = FeatureStore(store)
    shards = {path.name: path.read_bytes() for path in (store / "shards").iterdir()}
    rows: list[int] = []
    plain_run = TensorFlowEngine.run

    def count(engine: TensorFlowEngine, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        rows.append(len(batch))
        return plain_run(engine, batch)

    monkeypatch.setattr(TensorFlowEngine, "run", count)
    result = extract(pictures, store, views=3)

    assert (result.computed, result.reused, result.failed) == (6, 3, [])
    assert rows[:3] == [1, 4, 4], "the first batch, and the canary"
    assert sum(rows[3:]) == 12, "two views of six pictures"
    after = FeatureStore(store)
    assert after.examples == before.examples
    assert after.shards[: len(before.shards)] == before.shards
    assert {name: (store / "shards" / name).read_bytes() for name in shards} == shards
    assert_equal(store, three_views)
    assert extract(pictures, store, views=3).computed == 0
    assert extract(pictures, store).computed == 0, "fewer views need nothing"


def test_extract_more_views_interrupted_half_way_leaves_every_picture_trainable_and_is_gone_on_with(
    pictures: Path, one_view: Path, three_views: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = shutil.copytree(one_view, tmp_path / "store")
    with monkeypatch.context() as patch:
        stop_before_batch(2, patch)
        with pytest.raises(KeyboardInterrupt):
            extract(pictures, store, views=3)

    left, before = FeatureStore(store), FeatureStore(one_view)
    assert left.examples == before.examples
    assert {image.status for image in left.images} == {ImageStatus.DONE}
    # What was computed by then is stored, also of batches that were under way.
    num_kept = (left.num_features - 9) // 2
    assert (left.num_pending, num_kept >= 2) == (0, True)
    result = extract(pictures, store, views=3)
    assert (result.computed, result.reused) == (6 - num_kept, 3 + num_kept)
    assert_equal(store, three_views)


def test_extract_picture_that_moves_from_validation_to_train_gets_its_views(
    pictures: Path, three_views: Path, tmp_path: Path
) -> None:
    store, folder = shutil.copytree(three_views, tmp_path / "store"), shutil.copytree(pictures, tmp_path / "pictures")
    moved = (folder / "validation/cats/050.jpg").rename(folder / "train/cats/moved.jpg")
    result = extract(folder, store, views=3)
    assert (result.computed, result.reused) == (1, 8)
    (example,) = [e for e in FeatureStore(store).examples if e.path == "train/cats/moved.jpg"]
    assert example.content_hash == hashlib.sha256(moved.read_bytes()).digest()
    assert [view.view for view in FeatureStore(store).list_views(example, 3)] == [0, 1, 2]


def test_extract_views_of_another_seed_are_refused_with_both_seeds(pictures: Path, three_views: Path) -> None:
    before = {path: path.read_bytes() for path in three_views.rglob("*") if path.is_file()}
    with pytest.raises(FingerprintMismatchError, match=r"expected views .*; seed 0, got views .*; seed 1\."):
        extract(pictures, three_views, views=3, view_seed=1)
    assert {path: path.read_bytes() for path in three_views.rglob("*") if path.is_file()} == before


# Several cuts.


def stop_before_batch(number: int, patch: pytest.MonkeyPatch, *, kill: bool = False) -> None:
    """Has a run interrupted before its n-th batch is stored; killed, it commits nothing after that."""
    store, commit = ExtractionLoop._store, FeatureWriter.commit
    finished: list[int] = []

    def stop(loop: ExtractionLoop, batch: Any) -> None:
        finished.append(len(finished))
        if len(finished) == number:
            raise KeyboardInterrupt
        store(loop, batch)

    def commit_unless_killed(writer: FeatureWriter) -> None:
        if len(finished) < number:
            commit(writer)

    patch.setattr(ExtractionLoop, "_store", stop)
    if kill:
        patch.setattr(FeatureWriter, "commit", commit_unless_killed)


@pytest.fixture(scope="module")
def alone(pictures: Path, one_view: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The store of each cut from a run of its own; never changed."""
    store = tmp_path_factory.mktemp("alone") / "store"
    assert extract(pictures, store, cut="mixed1").computed == 9
    return {"mixed0": one_view, "mixed1": store}


def test_extract_two_cuts_in_one_pass_equals_two_runs_to_the_bit(
    pictures: Path, alone: dict[str, Path], tmp_path: Path
) -> None:
    result = extract(pictures, tmp_path / "stores", cut=",".join(CUTS))

    assert (result.images, result.computed, result.reused, result.unsound) == (9, 9, 0, 0)
    digests = [FeatureStore(alone[cut]).fingerprint.digest for cut in CUTS]
    assert result.fingerprint == ",".join(digests)
    assert sorted(path.name for path in (tmp_path / "stores").iterdir()) == list(CUTS)
    for cut in CUTS:
        assert_equal(tmp_path / "stores" / cut, alone[cut])
    for cuts in ("mixed0,mixed1", "mixed1,mixed0", "mixed0", "mixed1"):
        again = extract(pictures, tmp_path / "stores", cut=cuts)
        assert (again.computed, again.reused) == (0, 9)


def test_extract_one_cut_more_into_a_folder_of_stores_computes_it_alone(
    pictures: Path, alone: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "stores").mkdir()
    shutil.copytree(alone["mixed0"], tmp_path / "stores/mixed0")
    before = FeatureStore(tmp_path / "stores/mixed0")

    assert extract(pictures, tmp_path / "stores", cut="mixed0,mixed1").computed == 9

    assert_equal(tmp_path / "stores/mixed1", alone["mixed1"])
    after = FeatureStore(tmp_path / "stores/mixed0")
    assert (after.examples, after.shards) == (before.examples, before.shards)


@pytest.mark.parametrize(
    ("rows_per_shard", "held", "done"),
    [((4, 100), [8, 0], [4, 0]), ((100, 4), [0, 8], [0, 4]), ((4, 3), [8, 6], [4, 4])],
)
def test_extract_two_cuts_that_were_killed_at_different_pictures_are_mended_by_the_next_run(
    pictures: Path,
    alone: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows_per_shard: tuple[int, int],
    held: list[int],
    done: list[int],
) -> None:
    stores = tmp_path / "stores"
    with monkeypatch.context() as patch:
        rows = dict(zip((256, 288), rows_per_shard, strict=True))
        patch.setattr("features.writer.count_rows_per_shard", lambda shape: rows[shape[-1]])
        stop_before_batch(3, patch, kill=True)
        with pytest.raises(KeyboardInterrupt):
            extract(pictures, stores, cut=",".join(CUTS))
    left = [FeatureStore(stores / cut) for cut in CUTS]
    assert [store.num_features for store in left] == held
    assert [len(store.examples) for store in left] == done

    result = extract(pictures, stores, cut=",".join(CUTS))

    assert (result.computed, result.reused) == (9 - min(held), min(held))
    for cut in CUTS:
        assert_equal(stores / cut, alone[cut])
        assert sum(shard.num_rows for shard in FeatureStore(stores / cut).shards) == 9, "nothing is stored twice"


def test_extract_two_cuts_of_which_one_knows_fewer_pictures_are_mended_by_the_next_run(
    pictures: Path, alone: dict[str, Path], tmp_path: Path
) -> None:
    stores = tmp_path / "stores"
    smaller = shutil.copytree(pictures, tmp_path / "smaller")
    (smaller / "train/dogs/000.jpg").unlink()
    (smaller / "validation/cats/050.jpg").unlink()
    (smaller / "train/cats/000.jpg").rename(smaller / "train/dogs/another name and class.jpg")
    extract(smaller, stores / "mixed0")
    extract(pictures, stores / "mixed1", cut="mixed1")

    result = extract(pictures, stores, cut=",".join(CUTS))

    assert (result.computed, result.reused, result.removed) == (2, 7, 1)
    for cut in CUTS:
        assert_equal(stores / cut, alone[cut])


def test_extract_one_cut_more_interrupted_leaves_the_finished_one_as_it_was(
    pictures: Path, alone: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = tmp_path / "stores"
    shutil.copytree(alone["mixed0"], stores / "mixed0")
    with monkeypatch.context() as patch:
        stop_before_batch(2, patch)
        with pytest.raises(KeyboardInterrupt):
            extract(pictures, stores, cut=",".join(CUTS))

    assert_equal(stores / "mixed0", alone["mixed0"])
    assert FeatureStore(stores / "mixed0").num_pending == 0
    begun = FeatureStore(stores / "mixed1")
    num_kept = len(begun.examples)
    assert (num_kept >= 4, begun.num_pending) == (True, 9 - num_kept)
    result = extract(pictures, stores, cut=",".join(CUTS))
    assert (result.computed, result.reused) == (9 - num_kept, num_kept)
    for cut in CUTS:
        assert_equal(stores / cut, alone[cut])


def test_extract_one_cut_more_compares_the_cut_that_is_there_with_what_comes_out_today(
    pictures: Path, alone: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = tmp_path / "stores"
    shutil.copytree(alone["mixed0"], stores / "mixed0")
    plain_run = TensorFlowEngine.run

    def run_askew(engine: TensorFlowEngine, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return [features * np.float32(1.01) for features in plain_run(engine, batch)]

    monkeypatch.setattr(TensorFlowEngine, "run", run_askew)
    with pytest.raises(FeatureStoreError, match=r"mixed0: expected .* a difference of 0\.01 for"):
        extract(pictures, stores, cut=",".join(CUTS))
    assert_equal(stores / "mixed0", alone["mixed0"])
    assert FeatureStore(stores / "mixed1").num_features == 0


def test_extract_two_cuts_refused_for_one_leaves_nothing_of_the_other(
    pictures: Path, alone: dict[str, Path], tmp_path: Path
) -> None:
    stores = tmp_path / "stores"
    shutil.copytree(alone["mixed1"], stores / "mixed1")
    with pytest.raises(FingerprintMismatchError, match="expected pool none, got pool avg"):
        extract(pictures, stores, cut=",".join(CUTS), pool=Pool.AVG)
    assert [path.name for path in stores.iterdir()] == ["mixed1"]
    assert_equal(stores / "mixed1", alone["mixed1"])


def test_extract_into_a_store_that_has_no_features_takes_on_other_options(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "bad/cats").mkdir(parents=True)
    (tmp_path / "bad/dogs").mkdir()
    for label in ("cats", "dogs"):
        (tmp_path / "bad" / label / "1.jpg").write_bytes(b"no picture")
    assert len(extract(tmp_path / "bad", tmp_path / "store").failed) == 2
    result = extract(pictures, tmp_path / "store", pool=Pool.AVG)
    assert (result.computed, FeatureStore(tmp_path / "store").fingerprint.pool) == (9, "avg")


def test_extract_other_folder_into_two_cuts_is_refused_for_the_one_that_holds_pictures(
    pictures: Path, alone: dict[str, Path], tmp_path: Path
) -> None:
    stores = tmp_path / "stores"
    shutil.copytree(alone["mixed1"], stores / "mixed1")
    fill_folder(tmp_path / "others", {"train/cats": 1, "train/dogs": 1}, start=900)
    with pytest.raises(OtherFolderError) as raised:
        extract(tmp_path / "others", stores, cut=",".join(CUTS))
    assert raised.value.where == stores / "mixed1"
    assert str(pictures) in raised.value.expected
    assert [path.name for path in stores.iterdir()] == ["mixed1"]
    assert_equal(stores / "mixed1", alone["mixed1"])


@pytest.mark.parametrize("message", ["OOM when allocating tensor\nwith shape [4, 75]", ""])
def test_extract_engine_that_fails_is_told_in_one_line_and_keeps_what_is_stored(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    plain_run, sizes = TensorFlowEngine.run, list[int]()

    def run_out_of_memory(engine: TensorFlowEngine, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        sizes.append(len(batch))
        if len(sizes) == 3:
            raise RuntimeError(message)
        return plain_run(engine, batch)

    monkeypatch.setattr(TensorFlowEngine, "run", run_out_of_memory)
    with pytest.raises(HeadstartError) as raised:
        # One core: the batches come to the engine in their order.
        extract(pictures, tmp_path / "store", threads=1)
    assert str(raised.value) == (
        "--engine tensorflow: expected to run 4 pictures of 75 px, got RuntimeError: "
        f"{message.partition(chr(10))[0]}. Try a smaller --batch-size, or fewer --threads."
    )
    assert FeatureStore(tmp_path / "store").num_features in (4, 5), "the first batch, and what was ready of the others"
    monkeypatch.undo()
    extract(pictures, tmp_path / "store")
    assert FeatureStore(tmp_path / "store").num_features == 9


@pytest.mark.parametrize(
    ("cut", "error", "message"),
    [
        ("mixed0,mixed0", UsageError, "--cut: expected different layers, got mixed0,mixed0. Name each once."),
        ("mixed0,mixd1", UsageError, "--cut: expected a layer of InceptionV3, got 'mixd1'. Did you mean mixed1"),
        ("mixed0,", UsageError, "--cut: expected a layer of InceptionV3, got ''."),
        ("mixed0,mixed1", StoreMissingError, "one cut"),
    ],
)
def test_extract_cuts_that_cannot_be_are_refused_and_leave_the_store_as_it_was(
    pictures: Path, one_view: Path, cut: str, error: type[Exception], message: str
) -> None:
    before = {path: path.read_bytes() for path in one_view.rglob("*") if path.is_file()}
    with pytest.raises(error) as raised:
        extract(pictures, one_view, cut=cut)
    assert message in str(raised.value)
    assert {path: path.read_bytes() for path in one_view.rglob("*") if path.is_file()} == before


# Pooling.


def test_extract_pooled_features_are_the_means_over_height_and_width(
    pictures: Path, three_views: Path, tmp_path: Path
) -> None:
    assert extract(pictures, tmp_path / "pooled", views=3, pool=Pool.AVG).computed == 9

    store = FeatureStore(tmp_path / "pooled")
    assert (store.feature_shape, store.fingerprint.pool) == ((256,), "avg")
    plain, pooled = read_all(three_views), read_all(tmp_path / "pooled")
    assert plain.keys() == pooled.keys()
    for key, feature in pooled.items():
        expected = plain[key].astype(np.float64).mean(axis=(1, 2))
        assert expected.std() > 0.01
        # Each of the two roundings is at most 2**-11 of a value; those of 49 values hardly add up.
        np.testing.assert_allclose(feature, expected, rtol=2**-10, atol=1e-6)
    assert extract(pictures, tmp_path / "pooled", views=3, pool=Pool.AVG).computed == 0


def test_extract_pooled_into_a_store_that_is_not_is_refused(pictures: Path, one_view: Path) -> None:
    with pytest.raises(FingerprintMismatchError, match=r"expected pool none, got pool avg\."):
        extract(pictures, one_view, pool=Pool.AVG)


def test_extract_two_pooled_cuts_give_a_store_each(pictures: Path, alone: dict[str, Path], tmp_path: Path) -> None:
    extract(pictures, tmp_path / "stores", cut=",".join(CUTS), pool=Pool.AVG)
    for cut, channels in zip(CUTS, (256, 288), strict=True):
        plain, pooled = read_all(alone[cut]), read_all(tmp_path / "stores" / cut)
        assert plain.keys() == pooled.keys()
        for key, feature in pooled.items():
            assert feature.shape == (1, channels)
            np.testing.assert_allclose(feature, plain[key].astype(np.float64).mean(axis=(1, 2)), rtol=2**-10, atol=1e-6)
