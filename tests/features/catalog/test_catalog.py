"""The catalog keeps what it is told, whole transactions at a time."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from base.errors import CatalogDamagedError, FeatureStoreError, StoreLockedError, StoreMissingError
from features.catalog import database
from features.catalog.catalog import CATALOG_NAME, Catalog
from features.catalog.tables import FEATURES, IMAGES, ImageRow, write_meta, write_totals
from features.maintenance.check import find_problems
from features.schema import FeatureStatus, ImageStatus
from features.shards.shard import ShardRef
from features.store import FeatureStore
from tests.features.stores import fill_store, make_fingerprint, make_image, make_key, make_origin, make_writer


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


def test_catalog_that_is_empty_is_missing_and_with_shards_damaged(tmp_path: Path) -> None:
    (tmp_path / CATALOG_NAME).touch()
    with pytest.raises(StoreMissingError):
        Catalog(tmp_path / CATALOG_NAME, writable=False)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/00001.h5").touch()
    with pytest.raises(CatalogDamagedError):
        Catalog(tmp_path / CATALOG_NAME, writable=False)


def make_foreign(folder: Path, *, hot: bool) -> dict[str, bytes]:
    """Makes a database that is not ours under the catalog's name, with a journal to be rolled back or without."""
    folder.mkdir()
    db = sqlite3.connect(folder / "notes.sqlite", isolation_level=None)
    db.execute("CREATE TABLE notes (text)")
    db.execute("PRAGMA cache_size=1")
    db.execute("BEGIN IMMEDIATE")
    db.executemany("INSERT INTO notes VALUES (?)", [("y" * 500,)] * 1000)
    if not hot:
        db.execute("COMMIT")
    for path in list(folder.iterdir()):
        shutil.copy(path, folder / path.name.replace("notes.sqlite", CATALOG_NAME))
    db.close()
    for path in folder.glob("notes*"):
        path.unlink()
    return read_files(folder)


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "LOCK"}


@pytest.mark.parametrize("hot", [False, True])
def test_foreign_database_under_the_catalogs_name_is_refused_and_not_a_byte_changed(tmp_path: Path, hot: bool) -> None:
    folder = tmp_path / "store"
    before = make_foreign(folder, hot=hot)
    assert len(before) == 1 + hot
    for act in (FeatureStore, lambda path: make_writer(path).__enter__()):
        with pytest.raises(StoreMissingError) as caught:
            act(folder)
        assert caught.value.got == "another SQLite database"
        assert read_files(folder) == before


def test_catalog_that_is_a_link_to_another_stores_is_not_written_through_it(tmp_path: Path) -> None:
    fill_store(tmp_path / "mine", range(4))
    before = read_files(tmp_path / "mine")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / CATALOG_NAME).symlink_to(tmp_path / "mine" / CATALOG_NAME)
    with pytest.raises(StoreMissingError), make_writer(tmp_path / "foreign"):
        pass
    assert read_files(tmp_path / "mine") == before


def test_catalog_that_another_process_holds_is_locked_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_store(tmp_path, range(4))
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    holder = sqlite3.connect(tmp_path / CATALOG_NAME, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreLockedError):
        FeatureStore(tmp_path)
    holder.execute("ROLLBACK")
    holder.close()
    assert len(FeatureStore(tmp_path).examples) == 4


def test_journal_without_its_catalog_is_not_applied_to_a_new_one(tmp_path: Path) -> None:
    (tmp_path / f"{CATALOG_NAME}-journal").write_bytes(b"of another catalog")
    with pytest.raises(StoreMissingError), make_writer(tmp_path):
        pass
    assert (tmp_path / f"{CATALOG_NAME}-journal").read_bytes() == b"of another catalog"


def edit_features(db: sqlite3.Connection, **changes: object) -> None:
    rows = db.execute("SELECT content_hash, view, shard, row, status FROM features").fetchall()
    names = ("content_hash", "view", "shard", "row", "status")
    edited = [tuple((dict(zip(names, row, strict=True)) | changes).values()) for row in rows]
    FEATURES.write(db, edited)


def edit_images(db: sqlite3.Connection) -> None:
    rows = db.execute("SELECT * FROM images").fetchall()
    IMAGES.write(db, [(*row[:6], b"weird", row[7]) for row in rows])


@pytest.mark.parametrize(
    "edit",
    [
        partial(edit_features, status=b"weird"),
        partial(edit_features, shard=99),
        partial(edit_features, row=-1),
        partial(edit_features, row=10**6),
        edit_images,
    ],
)
def test_catalog_with_right_checksums_and_values_of_no_sense_is_damaged(
    tmp_path: Path, edit: Callable[[sqlite3.Connection], None]
) -> None:
    fill_store(tmp_path, range(4))
    db = sqlite3.connect(tmp_path / CATALOG_NAME, isolation_level=None)
    db.text_factory = bytes
    edit(db)
    write_totals(db)
    db.close()
    with pytest.raises(CatalogDamagedError):
        FeatureStore(tmp_path)
    assert find_problems(tmp_path, read_data=True, images=None, advance=lambda _: None) != []


@pytest.mark.parametrize("key", ["tally", "fingerprint", "origin"])
@pytest.mark.parametrize("value", ["[]", "[" * 100_000, "7"])
def test_catalog_with_other_json_than_its_own_is_refused(tmp_path: Path, key: str, value: str) -> None:
    fill_store(tmp_path, range(4))
    db = sqlite3.connect(tmp_path / CATALOG_NAME, isolation_level=None)
    write_meta(db, key.encode(), value)
    if key != "tally":
        write_totals(db)
    db.close()
    with pytest.raises(FeatureStoreError):
        FeatureStore(tmp_path)
