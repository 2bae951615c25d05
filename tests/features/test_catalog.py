"""The catalog keeps what it is told, whole transactions at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from features.catalog import CATALOG_NAME, Catalog
from features.errors import CatalogDamagedError, FeatureStoreError, StoreMissingError
from features.schema import FeatureStatus, ImageStatus
from features.shard import ShardRef
from features.tables import ImageRow
from tests.features.stores import make_fingerprint, make_image, make_key, make_origin


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    Catalog.create(tmp_path / CATALOG_NAME, make_fingerprint(), make_origin())
    opened = Catalog(tmp_path / CATALOG_NAME, writable=True)
    yield opened
    opened.close()


def test_catalog_images_with_hostile_paths_come_back_equal(catalog: Catalog) -> None:
    paths = ["a b/ç.jpg", 'it\'s/"x".jpg', "new\nline/1.jpg", "not-utf8/\udcff\udcfe.jpg", "%_;--/1.jpg"]
    images = [ImageRow(path, path.split("/")[0], "train", 3, 2**62, None, ImageStatus.FAILED, "why") for path in paths]
    catalog.write_images(images)
    assert sorted(catalog.read_images(), key=lambda i: paths.index(i.path)) == images
    catalog.remove_images(paths[1:])
    assert catalog.read_images() == images[:1]


def test_catalog_image_written_again_is_replaced(catalog: Catalog) -> None:
    catalog.write_images([make_image(1, "dogs")])
    moved = ImageRow("dogs/00001.jpg", "dogs", "test", 5, 6, b"h" * 32, ImageStatus.DONE)
    catalog.write_images([moved])
    assert catalog.read_images() == [moved]


def test_catalog_shard_rows_are_found_by_key(catalog: Catalog) -> None:
    shard = ShardRef(3, "ab" * 32, 2, 999)
    catalog.add_shard(shard, [make_key(0), make_key(1)], [FeatureStatus.OK, FeatureStatus.OVERFLOW])
    assert catalog.read_shards() == [shard]
    assert catalog.read_features() == {
        make_key(0): (3, 0, FeatureStatus.OK),
        make_key(1): (3, 1, FeatureStatus.OVERFLOW),
    }


def test_catalog_transaction_that_fails_changes_nothing(catalog: Catalog) -> None:
    def fail_half_way() -> None:
        with catalog.transaction():
            catalog.write_images([make_image(1)])
            catalog.add_shard(ShardRef(1, "ab" * 32, 1, 9), [make_key(1)], [FeatureStatus.OK])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert (catalog.read_images(), catalog.read_shards(), catalog.read_features()) == ([], [], {})


def test_catalog_snapshot_does_not_see_a_commit_made_meanwhile(catalog: Catalog, tmp_path: Path) -> None:
    reader = Catalog(tmp_path / CATALOG_NAME, writable=False)
    with reader.snapshot():
        before = reader.read_images()
    catalog.write_images([make_image(1)])
    assert before == []
    assert reader.read_images() == [make_image(1)]
    reader.close()


def test_catalog_created_twice_keeps_what_is_there(catalog: Catalog, tmp_path: Path) -> None:
    catalog.write_images([make_image(1)])
    Catalog.create(tmp_path / CATALOG_NAME, make_fingerprint(cut="mixed6"), make_origin())
    assert catalog.read_images() == [make_image(1)]
    assert '"cut":"mixed7"' in (catalog.read_meta("fingerprint") or "")


def test_catalog_missing_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(StoreMissingError, match="python -m extract"):
        Catalog(tmp_path / CATALOG_NAME, writable=False)


def test_catalog_that_is_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(CatalogDamagedError, match="file is not a database"):
        Catalog(tmp_path / "text.sqlite", writable=False)
    sqlite3.connect(tmp_path / "other.sqlite").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(StoreMissingError, match="a Headstart catalog"):
        Catalog(tmp_path / "other.sqlite", writable=True)


def test_catalog_of_another_schema_version_is_refused(catalog: Catalog, tmp_path: Path) -> None:
    catalog.close()
    db = sqlite3.connect(tmp_path / CATALOG_NAME)
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(FeatureStoreError, match="expected schema version 1, got 99"):
        Catalog(tmp_path / CATALOG_NAME, writable=False)


def test_catalog_that_is_empty_is_no_store_yet_and_damaged_beside_shards(tmp_path: Path) -> None:
    (tmp_path / CATALOG_NAME).touch()
    with pytest.raises(StoreMissingError, match="an empty catalog"):
        Catalog(tmp_path / CATALOG_NAME, writable=False)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "000001-x.h5").touch()
    with pytest.raises(CatalogDamagedError, match="an empty file"):
        Catalog(tmp_path / CATALOG_NAME, writable=False)
