"""Source of the labels in a store, and several labels for each picture."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from base.errors import CatalogDamagedError
from features.catalog.catalog import CATALOG_NAME, Catalog
from features.labels import LABELS_KEY, LabelSource, join_labels
from features.store import FeatureStore
from features.validation_split import sort_examples
from tests.errors import raises
from tests.features.stores import copy_store, make_image, make_writer, pack

pytestmark = pytest.mark.unit

TABLE = LabelSource("labels.csv", "0" * 64, "id", ("cats", "dogs"), "fold", is_multi_label=True)


def relabel(store: Path, labels: list[str], source: LabelSource | None) -> FeatureStore:
    images = [make_image(number)._replace(label=label) for number, label in enumerate(labels)]
    with make_writer(store) as writer:
        writer.update_images(images, [], source)
    return FeatureStore(store)


def test_label_source_encoded_and_decoded_is_equal() -> None:
    assert LabelSource.from_json(TABLE.encode()) == TABLE
    assert LabelSource.from_json(LabelSource().encode()) == LabelSource()


def test_store_without_a_source_has_one_label_for_each_picture(tmp_path: Path) -> None:
    copy_store(tmp_path, range(4))
    store = relabel(tmp_path, ["a|b", "b", "a|b", "b"], None)
    assert store.contents.labels == LabelSource()
    assert store.classes == ["a|b", "b"]
    assert store.list_labels(store.examples[0]) == ["a|b"]
    assert store.to_numpy()[1].tolist().count(0) == 2


def test_store_with_several_labels_lists_each(tmp_path: Path) -> None:
    copy_store(tmp_path, range(4))
    store = relabel(tmp_path, [join_labels(labels) for labels in ("ba", "b", "", "a")], TABLE)
    assert store.is_multi_label
    assert store.classes == ["a", "b"]
    assert sorted(store.list_labels(example) for example in store.examples) == [[], ["a"], ["a", "b"], ["b"]]
    assert "several" in repr(store)
    targets = store.to_numpy()[1]
    assert targets.dtype == np.uint8
    expected = [
        [int(label in store.list_labels(example)) for label in "ab"] for example in sort_examples(store.examples)
    ]
    assert targets.tolist() == expected


def test_store_relabelled_by_folders_has_one_label_again(tmp_path: Path) -> None:
    copy_store(tmp_path, range(4))
    relabel(tmp_path, ["a|b", "b", "", "a"], TABLE)
    assert relabel(tmp_path, ["a", "b", "b", "a"], None).is_multi_label
    assert not relabel(tmp_path, ["a", "b", "b", "a"], LabelSource()).is_multi_label


def test_packed_store_keeps_many_combinations_and_the_source(tmp_path: Path) -> None:
    numbers = range(600)
    copy_store(tmp_path / "store", numbers, rows_per_shard=600)
    labels = [join_labels(f"a long name of a class {number:03} {part}" for part in "abcde") for number in numbers]
    store = relabel(tmp_path / "store", labels, TABLE)
    packed = pack(store, tmp_path / "store.h5")
    assert packed.contents.labels == TABLE
    assert [example.label for example in packed.examples] == [example.label for example in store.examples]


@pytest.mark.parametrize(
    "value",
    ["{", "[]", '{"table": "x"}']
    + [
        json.dumps(json.loads(TABLE.encode()) | change)
        for change in ({"table": 1}, {"is_multi_label": 1}, {"more": ""})
    ],
)
def test_store_with_an_unknown_source_is_damaged(tmp_path: Path, value: str) -> None:
    copy_store(tmp_path, range(4))
    with closing(Catalog(tmp_path / CATALOG_NAME, writable=True)) as catalog:
        catalog.write_meta(LABELS_KEY, value)
    with raises(CatalogDamagedError, where=tmp_path / CATALOG_NAME):
        FeatureStore(tmp_path)
