"""Several cut layers of the same pictures as one feature."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import FeatureStoreError, ShardDamagedError, UsageError
from features.contents import UnusableReason
from features.cuts import open_store
from features.joined import measure_scales
from features.schema import FEATURE_DTYPE, FeatureKey, Features, FeatureStatus, ImageStatus
from features.store import FeatureStore
from features.store_writer import FeatureWriter
from tests.errors import raises
from tests.features.stores import copy_store, make_fingerprint, make_image, make_key, make_origin, pack

pytestmark = pytest.mark.unit

NUMBERS = range(10)
CUTS = {"mixed5": 2, "mixed6": 3}
BOTH = "mixed5,mixed6"


def draw(cut: str, number: int, view: int = 0) -> Features:
    rng = np.random.default_rng([CUTS[cut], number, view])
    return np.asarray(rng.normal(size=CUTS[cut]) * 10 ** CUTS[cut], np.float16)


def write_cut(
    folder: Path,
    cut: str,
    numbers: Sequence[int] = NUMBERS,
    *,
    rows_per_shard: int = 4,
    views: int = 1,
    features: Mapping[int, Any] | None = None,
    bad: Mapping[int, FeatureStatus] | None = None,
    images: Sequence[int] = NUMBERS,
    **changes: object,
) -> Path:
    """Write the pooled features of pictures at one cut layer; `features` replaces some of them."""
    keys = [make_key(number)._replace(view=view) for number in numbers for view in range(views)]
    rows = [(features or {}).get(number, draw(cut, number, view)) for number in numbers for view in range(views)]
    fingerprint = make_fingerprint(**{"cut": cut, "pool": "avg", "weights_sha256": cut, **changes})
    with FeatureWriter(folder / cut, fingerprint, make_origin((CUTS[cut],)), rows_per_shard=rows_per_shard) as writer:
        writer.update_images([make_image(number) for number in images], [])
        statuses = [(bad or {}).get(number, FeatureStatus.OK) for number in numbers for _ in range(views)]
        writer.add_features(keys, np.array(rows, FEATURE_DTYPE), statuses)
        writer.commit()
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two cuts whose shards have other rows: the second was written in the opposite order."""
    write_cut(tmp_path, "mixed5", views=2)
    return write_cut(tmp_path, "mixed6", NUMBERS[::-1], views=2, rows_per_shard=6)


def list_numbers(store: FeatureStore) -> list[int]:
    return [int(Path(example.path).stem) for example in store.examples]


def test_open_store_two_cuts_concatenates_their_scaled_features_of_each_picture(folder: Path) -> None:
    store = open_store(folder, BOTH, scales=[2.0, 0.125])
    assert (store.feature_shape, store.num_views, len(store)) == ((5,), 2, 10)
    examples = [view for example in store.examples for view in store.list_views(example, 2)][::-1]
    numbers = [int(Path(example.path).stem) for example in examples]
    wanted = [
        np.concatenate([2 * draw("mixed5", number, example.view), draw("mixed6", number, example.view) / 8])
        for number, example in zip(numbers, examples, strict=True)
    ]
    found = store.read(examples)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("cut", [BOTH, "mixed5 + mixed6", ["mixed5", "mixed6"]])
def test_open_store_cuts_of_any_form_have_unit_mean_square(folder: Path, cut: Any) -> None:
    store = open_store(folder, cut)
    features, _ = store.to_numpy("train")
    for part in (features[:, :2], features[:, 2:]):
        assert np.square(part).mean() == pytest.approx(1, abs=1e-3)
    assert store.fingerprint.cut == BOTH
    assert store.path == folder
    assert store.fingerprint == open_store(folder, BOTH, scales=store.scales).fingerprint


def test_open_store_order_of_cuts_is_the_order_of_features(folder: Path) -> None:
    swapped, store = open_store(folder, "mixed6,mixed5"), open_store(folder, BOTH)
    np.testing.assert_array_equal(swapped.read(swapped.examples)[:, 3:], store.read(store.examples)[:, :2])
    assert swapped.fingerprint.digest != store.fingerprint.digest


def test_open_store_other_scales_change_the_fingerprint(folder: Path) -> None:
    digests = {open_store(folder, BOTH, scales=scales).fingerprint.digest for scales in ([1.0, 2.0], [2.0, 1.0])}
    assert len(digests) == 2


def test_open_store_flat_features_are_joined_after_pooling_only(tmp_path: Path) -> None:
    for cut in CUTS:
        copy_store(tmp_path / cut, NUMBERS, cut=cut)
    with raises(UsageError, where="--cut", got=f"(2, 2, 3) in {tmp_path / 'mixed5'}"):
        open_store(tmp_path, BOTH)
    pooled = open_store(tmp_path, BOTH, "avg", [1.0, 1.0])
    single = open_store(tmp_path, "mixed5", "avg")
    np.testing.assert_array_equal(pooled.read(pooled.examples), np.tile(single.read(single.examples), 2))


@pytest.mark.parametrize(
    ("cut", "got"), [("mixed5,mixed7", "mixed7"), ("mixed5,mixed5", "mixed5,mixed5"), ("mixed5,", "none")]
)
def test_open_store_unknown_or_repeated_cut_is_usage_error(folder: Path, cut: str, got: str) -> None:
    with raises(UsageError, where="--cut", got=got):
        open_store(folder, cut)


def test_open_store_several_cuts_of_a_single_or_packed_store_is_usage_error(folder: Path, tmp_path: Path) -> None:
    packed = pack(folder / "mixed5", tmp_path / "packed.h5")
    for path in (folder / "mixed5", packed.path):
        with raises(UsageError, where="--cut", got="mixed6"):
            open_store(path, BOTH)


def test_joined_store_pickles_and_reopens_with_its_scales(folder: Path) -> None:
    store = open_store(folder, BOTH, scales=[3.0, 0.5])
    for copy in (pickle.loads(pickle.dumps(store)), store.reopen()):
        assert (copy.fingerprint, copy.path, copy.scales) == (store.fingerprint, folder, (3.0, 0.5))
        np.testing.assert_array_equal(copy.read(copy.examples), store.read(store.examples))


def test_joined_store_hash_sources_covers_the_files_of_every_cut(tmp_path: Path) -> None:
    """A feature that was computed again with another value changes the digest of its own rows only."""
    digests = []
    for name, changed in (("first", {}), ("second", {9: [1, 2, 3]})):
        write_cut(tmp_path / name, "mixed5")
        write_cut(tmp_path / name, "mixed6", rows_per_shard=5, features=changed)
        store = open_store(tmp_path / name, BOTH)
        by_number = dict(zip(list_numbers(store), store.examples, strict=True))
        digests.append([store.hash_sources([by_number[number]]) for number in (0, 9)])
    assert digests[0][0] == digests[1][0]
    assert digests[0][1] != digests[1][1]


def test_measure_scales_does_not_depend_on_the_order_of_the_examples(folder: Path) -> None:
    store = open_store(folder, BOTH)
    assert measure_scales(store, store.examples) == measure_scales(store, store.examples[::-1])
    values = np.array([draw("mixed6", number) for number in NUMBERS[:4]], np.float64)
    some = [example for example in store.examples if int(Path(example.path).stem) < 4]
    assert measure_scales(store, some)[1] == pytest.approx((values**2).mean() ** -0.5, rel=1e-6)


@pytest.mark.parametrize(("value", "scale"), [(0, 1.0), (4, 0.25), (65504, 1 / 65504), (6e-8, 2**24)])
def test_measure_scales_constant_features_have_a_finite_scale(tmp_path: Path, value: float, scale: float) -> None:
    write_cut(tmp_path, "mixed5")
    write_cut(tmp_path, "mixed6", features=dict.fromkeys(NUMBERS, [value] * 3))
    store = open_store(tmp_path, BOTH)
    assert store.scales[1] == pytest.approx(scale)
    np.testing.assert_allclose(store.read(store.examples)[:, 2:], float(value > 0), rtol=1e-3)


def test_joined_store_values_beyond_float16_are_limited(tmp_path: Path) -> None:
    write_cut(tmp_path, "mixed5")
    write_cut(tmp_path, "mixed6", features={0: [60_000, -60_000, 1]})
    store = open_store(tmp_path, BOTH, scales=[1.0, 10.0])
    values = store.read(store.examples)
    np.testing.assert_array_equal(values[list_numbers(store).index(0), 2:], [65504, -65504, 10])


def test_joined_store_picture_without_a_usable_feature_in_one_cut_is_unusable(tmp_path: Path) -> None:
    write_cut(tmp_path, "mixed5", bad={1: FeatureStatus.OVERFLOW})
    write_cut(tmp_path, "mixed6", NUMBERS[:7], bad={2: FeatureStatus.NONFINITE}, images=NUMBERS[:9])
    store = open_store(tmp_path, BOTH)
    assert sorted(list_numbers(store)) == [0, 3, 4, 5, 6]
    found = {int(Path(unusable.image.path).stem): unusable.reason for unusable in store.list_unusable()}
    unsound, pending = UnusableReason.UNSOUND, UnusableReason.PENDING
    assert found == {1: unsound, 2: unsound, 7: pending, 8: pending, 9: pending}
    assert store.num_pending == 3
    assert store.find_examples([FeatureKey(make_key(1).content_hash, 0), make_key(9)]) == [None, None]


def test_joined_store_picture_changed_or_failed_in_one_cut_is_unusable(folder: Path) -> None:
    with FeatureWriter(folder / "mixed6", FeatureStore(folder / "mixed6").fingerprint, make_origin((3,))) as writer:
        failed = make_image(0)._replace(content_hash=None, status=ImageStatus.FAILED, reason="broken")
        changed = make_image(2)._replace(content_hash=make_key(4).content_hash)
        writer.update_images([failed, changed, *map(make_image, [1, *NUMBERS[3:]])], [])
    store = open_store(folder, BOTH)
    assert sorted(list_numbers(store)) == [1, *NUMBERS[3:]]


def test_joined_store_nan_in_a_shard_of_one_cut_names_that_cut(tmp_path: Path) -> None:
    write_cut(tmp_path, "mixed5")
    write_cut(tmp_path, "mixed6", features={3: [1, np.nan, 1]})
    with raises(ShardDamagedError, where=tmp_path / "mixed6"):
        open_store(tmp_path, BOTH)


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"image_size": 150}, "image_size 150"),
        ({"pool": "none"}, "pool none"),
        ({"precision": "bfloat16"}, "precision bfloat16"),
    ],
)
def test_open_store_cuts_of_other_options_is_an_error(tmp_path: Path, changes: dict[str, Any], got: str) -> None:
    write_cut(tmp_path, "mixed5")
    write_cut(tmp_path, "mixed6", **changes)
    with raises(FeatureStoreError, where=tmp_path / "mixed6", got=got):
        open_store(tmp_path, BOTH)


def test_open_store_cuts_of_other_pictures_or_labels_is_an_error(tmp_path: Path) -> None:
    write_cut(tmp_path / "others", "mixed5")
    write_cut(tmp_path / "others", "mixed6", range(10, 20), images=range(10, 20))
    with raises(FeatureStoreError, where=tmp_path / "others/mixed6"):
        open_store(tmp_path / "others", BOTH)
    shutil.copytree(tmp_path / "others/mixed5", tmp_path / "labels/mixed5")
    write_cut(tmp_path / "labels", "mixed6")
    with FeatureWriter(
        tmp_path / "labels/mixed6",
        make_fingerprint(cut="mixed6", pool="avg", weights_sha256="mixed6"),
        make_origin((3,)),
    ) as writer:
        writer.update_images([make_image(number)._replace(label="owls") for number in NUMBERS], [])
    with raises(FeatureStoreError, where=f"{tmp_path / 'labels'}, {make_image(0).path}", got="cats, owls"):
        open_store(tmp_path / "labels", BOTH)


def test_open_store_cuts_of_other_weights_is_an_error(tmp_path: Path) -> None:
    write_cut(tmp_path, "mixed5")
    origin = make_origin((3,))
    fingerprint = make_fingerprint(cut="mixed6", pool="avg")
    with FeatureWriter(tmp_path / "mixed6", fingerprint, type(origin)((3,), "imagenet", "", "ab" * 32)) as writer:
        writer.update_images([make_image(number) for number in NUMBERS], [])
        writer.add_features([make_key(0)], np.ones((1, 3), np.float16), [FeatureStatus.OK])
        writer.commit()
    with raises(FeatureStoreError, where=tmp_path / "mixed6", got=f"the weights {'ab' * 6}"):
        open_store(tmp_path, BOTH)
