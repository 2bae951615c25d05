"""Extraction with the labels of a table: the store, changed labels, several labels, and commands that use the store."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from base.errors import HeadstartError, HeadstartWarning, UsageError
from features.labels import LabelSource
from features.options import Compression
from features.packed.write import is_packed, pack_store
from features.schema import ImageStatus
from features.store import FeatureStore
from features.validation_split import sort_examples
from tests.commands import run_command
from tests.errors import raises
from tests.extract.extraction import extract
from tests.inputs.folders import SMALL
from tests.inputs.tables import write_table
from tests.pictures import draw_picture, encode

NUM_PICTURES = 8
LABELS = ["cats", "dogs"] * (NUM_PICTURES // 2)
STEMS = [f"{number:03x}" for number in range(NUM_PICTURES)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flat folders train/ and test/, and a table of the pictures in train/ without extensions."""
    folder = tmp_path_factory.mktemp("flat") / "dogs"
    for number, stem in enumerate(STEMS):
        (folder / "train").mkdir(parents=True, exist_ok=True)
        (folder / f"train/{stem}.jpg").write_bytes(encode(draw_picture(LABELS[number], number), "JPEG"))
    (folder / "test").mkdir()
    (folder / "test/fff.jpg").write_bytes(encode(draw_picture("cats", 99), "JPEG"))
    write_table(folder / "labels.csv", [("id", "breed"), *zip(STEMS, LABELS, strict=True)])
    return folder


@pytest.fixture(scope="module")
def shared(pictures: Path) -> Path:
    """Store of the pictures with the labels of the table; must not be changed."""
    store = pictures.parent / "store"
    assert extract(pictures, store, labels=pictures / "labels.csv").computed == NUM_PICTURES
    return store


@pytest.fixture
def store(shared: Path, tmp_path: Path) -> Path:
    """Copy of the store."""
    return shutil.copytree(shared, tmp_path / "store")


@pytest.fixture
def multi_table(tmp_path: Path) -> Path:
    """Table in which a picture has both labels, and another one none of the classes."""
    rows = [("id", "cats", "dogs", "owls"), *((stem, int(n % 2 == 0), int(n != 3), 0) for n, stem in enumerate(STEMS))]
    rows[-1] = (STEMS[-1], 0, 0, 0)
    return write_table(tmp_path / "multi.csv", rows)


def list_stored(store: Path) -> dict[str, tuple[str, str]]:
    return {example.path: (example.label, example.split) for example in FeatureStore(store).examples}


def test_extract_with_a_table_stores_its_labels_and_its_digest(pictures: Path, shared: Path) -> None:
    assert list_stored(shared) == {
        f"train/{stem}.jpg": (label, "train") for stem, label in zip(STEMS, LABELS, strict=True)
    }
    store = FeatureStore(shared)
    assert store.classes == ["cats", "dogs"]
    assert not store.is_multi_label
    source = store.contents.labels
    assert (source.table, source.path_column, source.label_columns) == ("labels.csv", "id", ("breed",))
    assert len(source.sha256) == 64
    X, y = store.to_numpy()
    assert (len(X), sorted(y.tolist())) == (NUM_PICTURES, [0] * 4 + [1] * 4)


def test_extract_with_changed_labels_computes_nothing(pictures: Path, store: Path, tmp_path: Path) -> None:
    labels = ["owls", "owls", *LABELS[2:]]
    table = write_table(tmp_path / "new.csv", [("file", "label"), *zip(STEMS, labels, strict=True)])
    result = extract(pictures, store, labels=table)
    assert (result.computed, result.reused, result.relabeled) == (0, NUM_PICTURES, 2)
    assert [label for label, _ in list_stored(store).values()] == labels
    assert FeatureStore(store).contents.labels.table == "new.csv"
    assert extract(pictures, store, labels=table).relabeled == 0


def test_extract_without_the_table_warns_that_labels_are_now_class_folders(store: Path, tmp_path: Path) -> None:
    for number, stem in enumerate(STEMS):
        path = tmp_path / "sorted" / LABELS[::-1][number] / f"{stem}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(draw_picture(LABELS[number], number), "JPEG"))
    table = write_table(tmp_path / "labels.csv", [("id", "breed"), *zip(STEMS, LABELS, strict=True)])
    options = ["--images", tmp_path / "sorted", "--store", tmp_path / "new", *SMALL, "--json"]
    assert run_command("extract.__main__", *options, "--labels", table).json["relabeled"] == 0
    result = run_command("extract.__main__", *options)
    assert (result.json["computed"], result.json["relabeled"], result.json["labels"]) == (0, NUM_PICTURES, None)
    assert any("labels.csv" in warning for warning in result.warnings)
    assert FeatureStore(tmp_path / "new").contents.labels == LabelSource()


def test_extract_reports_the_columns_of_the_table(pictures: Path, store: Path) -> None:
    options = ["--images", pictures, "--store", store, *SMALL, "--json"]
    for option in ([], ["--dry-run"]):
        result = run_command("extract.__main__", *options, "--labels", pictures / "labels.csv", *option)
        assert result.status == 0, result.err
        found = result.json["labels"]
        assert (found["path_column"], found["label_columns"], found["split_column"]) == ("id", ["breed"], "")
        assert (found["rows"], found["classes"], found["multi_label"]) == (NUM_PICTURES, 2, False)
        assert found["unlisted"] == {"count": 1, "first": ["test/fff.jpg"]}
        assert "labels.csv: columns: path id; label breed" in result.err


def test_extract_of_a_flat_folder_names_the_table_beside_the_pictures(pictures: Path, store: Path) -> None:
    options = ["--images", pictures, "--store", store, *SMALL, "--json"]
    refused = run_command("extract.__main__", *options)
    assert refused.status == 1
    assert f"--labels {pictures / 'labels.csv'}" in refused.json["advice"]
    assert run_command("extract.__main__", *options, "--labels", pictures / "labels.csv").status == 0


def test_extract_checks_the_classes_of_a_table(pictures: Path, store: Path, tmp_path: Path) -> None:
    labels = ["owls", *LABELS[1:]]
    table = write_table(tmp_path / "owls.csv", [("id", "breed"), *zip(STEMS, labels, strict=True)])
    with raises(HeadstartError, where=pictures) as caught:
        extract(pictures, store, labels=table)
    assert "owls" in caught.value.got
    assert extract(pictures, store, labels=table, min_pictures=2).images == NUM_PICTURES - 1
    assert FeatureStore(store).classes == ["cats", "dogs"]


def test_extract_with_columns_but_no_table_is_refused(pictures: Path, tmp_path: Path) -> None:
    with raises(UsageError, where="--columns"):
        extract(pictures, tmp_path / "store", columns="path=id")


def test_extract_with_several_labels_stores_all_of_them(pictures: Path, store: Path, multi_table: Path) -> None:
    result = extract(pictures, store, labels=multi_table)
    assert result.computed == 0
    labels = [label for label, _ in list_stored(store).values()]
    assert labels == ["cats|dogs", "dogs", "cats|dogs", "", "cats|dogs", "dogs", "cats|dogs", ""]
    found = FeatureStore(store)
    assert found.is_multi_label
    assert found.classes == ["cats", "dogs"]
    assert [found.list_labels(example) for example in found.examples[:4:3]] == [["cats", "dogs"], []]
    assert {image.status for image in found.images} == {ImageStatus.DONE}


@pytest.mark.parametrize(
    ("labels", "splits"),
    [
        pytest.param(["1,0"] * 4 + ["0,0"] * 4, None, id="one label"),
        pytest.param(["0,0"] * 8, None, id="no label"),
        pytest.param(["1,1"] * 4 + ["1,0"] * 4, None, id="label of all pictures"),
        pytest.param(["1,0", "0,0"] * 2 + ["0,1", "1,0"] * 2, ["train"] * 4 + ["val"] * 4, id="label in validation"),
    ],
)
def test_extract_refuses_several_labels_that_train_would_refuse(
    pictures: Path, store: Path, tmp_path: Path, labels: list[str], splits: list[str] | None
) -> None:
    rows = [("id", "cats", "dogs", *(["fold"] if splits else []))]
    rows += [
        (stem, *found.split(","), *(splits[number : number + 1] if splits else []))
        for number, (stem, found) in enumerate(zip(STEMS, labels, strict=True))
    ]
    table = write_table(tmp_path / "table.csv", rows)
    columns = "path=id,label=2-3" if splits is None else "path=id,label=2-3,split=fold"
    with raises(HeadstartError):
        extract(pictures, store, labels=table, columns=columns)


def test_store_with_several_labels_has_arrays_of_labels_and_can_be_packed(
    pictures: Path, store: Path, multi_table: Path, tmp_path: Path
) -> None:
    extract(pictures, store, labels=multi_table)
    found, out = FeatureStore(store), tmp_path / "store.h5"
    pack_store(found, out, Compression.GZIP, lambda _: None)
    packed = FeatureStore(out)
    assert is_packed(found, out)
    assert packed.contents.labels == found.contents.labels
    assert packed.classes == found.classes
    assert [example.label for example in packed.examples] == [example.label for example in found.examples]
    expected = [[int(label in found.list_labels(e)) for label in found.classes] for e in sort_examples(found.examples)]
    for each in (found, packed):
        assert each.to_numpy()[1].tolist() == expected
        assert {tuple(row) for _, rows in each.to_tf_dataset() for row in rows.numpy().tolist()} == {
            *map(tuple, expected)
        }
    extract(pictures, store, labels=pictures / "labels.csv")
    assert not is_packed(FeatureStore(store), out)


def test_train_uses_the_split_column_and_reports_the_table(pictures: Path, store: Path, tmp_path: Path) -> None:
    folds = ["train"] * 4 + ["val"] * 4
    table = write_table(tmp_path / "folds.csv", [("id", "breed", "fold"), *zip(STEMS, LABELS, folds, strict=True)])
    extract(pictures, store, labels=table)
    result = run_command("train_head.__main__", "--store", store, "--run", tmp_path / "run", "--epochs", 1, "--json")
    assert result.status == 0, result.err
    assert (result.json["num_train"], result.json["num_validation"]) == (4, 4)
    assert all(part in result.json["split_rule"] for part in ("fold", "folds.csv"))
    page = (tmp_path / "run/report.html").read_text()
    assert all(part in page for part in ("folds.csv, breed by id", "--labels folds.csv"))


def test_store_of_a_table_is_shown_by_info(pictures: Path, store: Path, multi_table: Path) -> None:
    extract(pictures, store, labels=multi_table)
    result = run_command("features.__main__", "info", store, "--json")
    assert result.json["labels"]["table"] == "multi.csv"
    assert result.json["labels"]["is_multi_label"]
    counts = {image["label"]: image["count"] for image in result.json["images"]}
    assert counts == {"cats": 4, "dogs": 6}


def test_api_extract_takes_a_table(pictures: Path, store: Path, tmp_path: Path) -> None:
    import headstart

    rows = [("id", "breed", "sex"), *zip(STEMS, LABELS, ["f", "f", "m", "m"] * 2, strict=True), ("gone", "cats", "f")]
    table = write_table(tmp_path / "labels.csv", rows)
    options: dict[str, Any] = {"weights": "random", "image_size": 75, "cut": "mixed0", "labels": str(table)}
    with pytest.raises(headstart.HeadstartError):
        headstart.extract(pictures, store, **options)
    with pytest.warns(HeadstartWarning, match="gone"):
        found = headstart.extract(pictures, store, columns="label=breed", **options)
    assert found.classes == ["cats", "dogs"]
