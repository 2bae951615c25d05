"""Catalog of a store: transactions, snapshots, validation of untrusted files."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest

from base.errors import CatalogDamagedError, FeatureStoreError, StoreLockedError, StoreMissingError, UsageError
from features.catalog import database
from features.catalog.catalog import CATALOG_NAME, Catalog
from features.catalog.tables import FEATURES, IMAGES, TABLES, TOTALS_KEY, ImageRow, read_totals, write_meta
from features.schema import FeatureStatus, ImageStatus
from features.shards.shard import ShardRef
from features.store import FeatureStore
from tests.errors import raises
from tests.features.stores import (
    copy_store,
    find_all_problems,
    make_fingerprint,
    make_image,
    make_key,
    make_origin,
    make_writer,
)
from tests.files import read_files, remove_locks
from tests.systems import needs_posix

pytestmark = pytest.mark.unit


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    Catalog.create(tmp_path / CATALOG_NAME, make_fingerprint(), make_origin())
    opened = Catalog(tmp_path / CATALOG_NAME, writable=True)
    yield opened
    opened.close()


def count_rows(db: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    """Count the rows and add their checksums, as SQLite sees them."""
    db.execute("DELETE FROM meta WHERE key = 'tally'")
    return {
        table.name: db.execute(f"SELECT COUNT(*), COALESCE(SUM(crc), 0) FROM {table.name}").fetchone()
        for table in TABLES
    }


def test_images_with_unusual_paths_are_read_unchanged(catalog: Catalog) -> None:
    paths = ["a b/ç.jpg", 'it\'s/"x".jpg', "new\nline/1.jpg", "not-utf8/\udcff\udcfe.jpg", "%_;--/1.jpg"]
    images = [ImageRow(path, path.split("/")[0], "train", 3, 2**62, None, ImageStatus.FAILED, "why") for path in paths]
    catalog.write_images(images)
    assert sorted(catalog.read_images(), key=lambda i: paths.index(i.path)) == images
    catalog.remove_images(paths[1:])
    assert catalog.read_images() == images[:1]


def test_write_images_same_path_is_replaced(catalog: Catalog) -> None:
    catalog.write_images([make_image(1, "dogs")])
    moved = ImageRow("dogs/00001.jpg", "dogs", "test", 5, 6, b"h" * 32, ImageStatus.DONE)
    catalog.write_images([moved])
    assert catalog.read_images() == [moved]


def test_add_shard_rows_are_read_by_key(catalog: Catalog) -> None:
    shard = ShardRef(3, "ab" * 32, 2, 999)
    catalog.add_shard(shard, [make_key(0), make_key(1)], [FeatureStatus.OK, FeatureStatus.OVERFLOW])
    assert catalog.read_shards() == [shard]
    assert catalog.read_features() == {
        make_key(0): (3, 0, FeatureStatus.OK),
        make_key(1): (3, 1, FeatureStatus.OVERFLOW),
    }


def test_transaction_ended_by_an_error_changes_nothing(catalog: Catalog) -> None:
    def write_and_fail() -> None:
        with catalog.transaction():
            catalog.write_images([make_image(1)])
            catalog.add_shard(ShardRef(1, "ab" * 32, 1, 9), [make_key(1)], [FeatureStatus.OK])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert (catalog.read_images(), catalog.read_shards(), len(catalog.read_features())) == ([], [], 0)


def test_snapshot_does_not_see_a_later_commit(catalog: Catalog, tmp_path: Path) -> None:
    reader = Catalog(tmp_path / CATALOG_NAME, writable=False)
    with reader.snapshot():
        before = reader.read_images()
    catalog.write_images([make_image(1)])
    assert before == []
    assert reader.read_images() == [make_image(1)]
    reader.close()


def test_create_existing_catalog_is_unchanged(catalog: Catalog, tmp_path: Path) -> None:
    catalog.write_images([make_image(1)])
    Catalog.create(tmp_path / CATALOG_NAME, make_fingerprint(cut="mixed6"), make_origin())
    assert catalog.read_images() == [make_image(1)]
    assert '"cut":"mixed7"' in (catalog.read_meta("fingerprint") or "")


def test_catalog_missing_file_is_an_error(tmp_path: Path) -> None:
    with raises(StoreMissingError, where=tmp_path):
        Catalog(tmp_path / CATALOG_NAME, writable=False)


@pytest.mark.parametrize("name", ["001.jpg", "cats/001.PNG", "train/cats/001.webp"])
def test_catalog_of_a_folder_of_pictures_advises_another_store(name: str, tmp_path: Path) -> None:
    pictures = tmp_path / "my photos"
    (pictures / name).parent.mkdir(parents=True)
    (pictures / name).touch()
    with raises(StoreMissingError, where=pictures, got="pictures") as caught:
        FeatureStore(pictures)
    assert f"{pictures}-store" in caught.value.advice


def test_catalog_text_file_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_bytes(b"not a database at all" * 100)
    with raises(CatalogDamagedError, where=tmp_path / "text.sqlite"):
        Catalog(tmp_path / "text.sqlite", writable=False)


def test_catalog_other_schema_version_is_an_error(catalog: Catalog, tmp_path: Path) -> None:
    catalog.close()
    db = sqlite3.connect(tmp_path / CATALOG_NAME)
    db.execute("PRAGMA user_version=99")
    db.close()
    with raises(FeatureStoreError, where=tmp_path / CATALOG_NAME, got=99):
        Catalog(tmp_path / CATALOG_NAME, writable=False)


def test_catalog_empty_file_is_missing_without_shards_and_damaged_with_shards(tmp_path: Path) -> None:
    (tmp_path / CATALOG_NAME).touch()
    with raises(StoreMissingError, where=tmp_path):
        Catalog(tmp_path / CATALOG_NAME, writable=False)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/00001.h5").touch()
    with raises(CatalogDamagedError, where=tmp_path / CATALOG_NAME):
        Catalog(tmp_path / CATALOG_NAME, writable=False)


def make_foreign(folder: Path, *, hot: bool) -> dict[str, bytes]:
    """Create a foreign database with the name of a catalog; with `hot` it has a journal that SQLite would roll back."""
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


@pytest.mark.parametrize("hot", [False, True])
@pytest.mark.parametrize("open_folder", [FeatureStore, lambda path: make_writer(path).__enter__()])
def test_catalog_foreign_database_is_an_error_and_unchanged(
    tmp_path: Path, open_folder: Callable[[Path], object], hot: bool
) -> None:
    folder = tmp_path / "store"
    before = make_foreign(folder, hot=hot)
    assert len(before) == 1 + hot
    with raises(StoreMissingError, where=folder / CATALOG_NAME):
        open_folder(folder)
    assert read_files(folder) == before


def test_catalog_link_to_another_catalog_is_not_followed(tmp_path: Path) -> None:
    copy_store(tmp_path / "mine", range(4))
    before = read_files(tmp_path / "mine")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / CATALOG_NAME).symlink_to(tmp_path / "mine" / CATALOG_NAME)
    with raises(StoreMissingError, where=tmp_path / "foreign" / CATALOG_NAME), make_writer(tmp_path / "foreign"):
        pass
    assert read_files(tmp_path / "mine") == before


def test_catalog_locked_by_another_connection_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_store(tmp_path, range(4))
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    holder = sqlite3.connect(tmp_path / CATALOG_NAME, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with raises(StoreLockedError, where=tmp_path / CATALOG_NAME):
        FeatureStore(tmp_path)
    holder.execute("ROLLBACK")
    holder.close()
    assert len(FeatureStore(tmp_path).examples) == 4


def test_catalog_on_a_file_system_without_locks_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_store(tmp_path, range(4))
    expected = FeatureStore(tmp_path).examples
    holder = sqlite3.connect(tmp_path / CATALOG_NAME, isolation_level=None)
    # With this lock any attempt to lock the catalog fails, as on a file system without locks.
    holder.execute("BEGIN EXCLUSIVE")
    remove_locks(monkeypatch)
    before = read_files(tmp_path)
    assert FeatureStore(tmp_path).examples == expected
    assert find_all_problems(tmp_path) == []
    assert read_files(tmp_path) == before
    holder.execute("ROLLBACK")
    holder.close()


@pytest.mark.parametrize("is_damaged", [False, True])
def test_catalog_changed_while_it_is_read_without_locks_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_damaged: bool
) -> None:
    copy_store(tmp_path, range(4))
    remove_locks(monkeypatch)
    path = tmp_path / CATALOG_NAME
    with (
        closing(Catalog(path, writable=False)) as catalog,
        raises(StoreLockedError, where=path),
        catalog.snapshot(),
    ):
        catalog.read_images()
        os.utime(path)
        if is_damaged:
            raise CatalogDamagedError(path, "an intact catalog", "half of two versions", "Rebuild it")


def test_journal_without_a_catalog_is_not_applied_to_a_new_catalog(tmp_path: Path) -> None:
    (tmp_path / f"{CATALOG_NAME}-journal").write_bytes(b"of another catalog")
    with raises(StoreMissingError, where=tmp_path), make_writer(tmp_path):
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
def test_catalog_with_valid_checksums_and_invalid_values_is_damaged(
    tmp_path: Path, edit: Callable[[sqlite3.Connection], None]
) -> None:
    copy_store(tmp_path, range(4))
    db = sqlite3.connect(tmp_path / CATALOG_NAME, isolation_level=None)
    db.text_factory = bytes
    edit(db)
    write_meta(db, TOTALS_KEY, json.dumps(count_rows(db)))
    db.close()
    with raises(CatalogDamagedError, where=tmp_path / CATALOG_NAME):
        FeatureStore(tmp_path)
    assert find_all_problems(tmp_path) != []


@pytest.mark.parametrize("key", ["tally", "fingerprint", "origin"])
@pytest.mark.parametrize("value", ["[]", "[" * 100_000, "7"])
def test_catalog_unexpected_json_is_damaged(tmp_path: Path, key: str, value: str) -> None:
    copy_store(tmp_path, range(4))
    db = sqlite3.connect(tmp_path / CATALOG_NAME, isolation_level=None)
    write_meta(db, key.encode(), value)
    if key != "tally":
        write_meta(db, TOTALS_KEY, json.dumps(count_rows(db)))
    db.close()
    with raises(CatalogDamagedError, where=tmp_path / CATALOG_NAME):
        FeatureStore(tmp_path)


def change_at_random(catalog: Catalog, rng: random.Random) -> None:
    """Add, replace and remove rows; keys repeat, so that some are replaced and some are ignored."""
    numbers = rng.sample(range(12), 4)
    match rng.randrange(5):
        case 0:
            catalog.write_images([make_image(number, split=rng.choice(["train", "test"])) for number in numbers])
        case 1:
            catalog.remove_images([make_image(number).path for number in numbers])
        case 2:
            shard = ShardRef(rng.randrange(1, 5), "ab" * 32, 4, rng.randrange(999))
            catalog.remove_shard(shard.number)
            catalog.add_shard(shard, [make_key(number) for number in numbers], [FeatureStatus.OK] * 4)
        case 3:
            catalog.remove_shard(rng.randrange(1, 5))
        case _:
            catalog.write_meta("images_folder", rng.choice(["/a", "/b"]))


@pytest.mark.parametrize("seed", range(8))
def test_totals_after_any_changes_equal_a_count_of_the_rows(catalog: Catalog, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    for number in range(30):
        with suppress(RuntimeError), catalog.transaction():
            for _ in range(rng.randrange(4)):
                change_at_random(catalog, rng)
            if number % 3 == 0:
                raise RuntimeError  # All changes since BEGIN are reverted.
    with closing(sqlite3.connect(tmp_path / CATALOG_NAME, isolation_level=None)) as db:
        db.text_factory = bytes
        db.execute("BEGIN")
        found = read_totals(db)
        assert found == count_rows(db)


def test_write_after_a_lost_row_leaves_the_catalog_damaged(tmp_path: Path) -> None:
    copy_store(tmp_path, range(4))
    with closing(Catalog(tmp_path / CATALOG_NAME, writable=True)) as catalog:
        with closing(sqlite3.connect(tmp_path / CATALOG_NAME, isolation_level=None)) as db:
            db.execute("DELETE FROM images WHERE path = 'cats/00002.jpg'")
        catalog.write_images([make_image(7)])
    with raises(CatalogDamagedError, where=tmp_path / CATALOG_NAME):
        FeatureStore(tmp_path)


def test_transaction_without_totals_is_an_error_and_changes_nothing(catalog: Catalog, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / CATALOG_NAME, isolation_level=None)) as db:
        db.execute("DELETE FROM meta WHERE key = 'tally'")
    before = (tmp_path / CATALOG_NAME).read_bytes()
    with raises(CatalogDamagedError, where=tmp_path / CATALOG_NAME):
        catalog.write_images([make_image(1)])
    assert (tmp_path / CATALOG_NAME).read_bytes() == before


def test_write_meta_of_the_stored_value_changes_no_byte(catalog: Catalog, tmp_path: Path) -> None:
    catalog.write_meta("images_folder", "/a")
    before = (tmp_path / CATALOG_NAME).read_bytes()
    catalog.write_meta("images_folder", "/a")
    assert (tmp_path / CATALOG_NAME).read_bytes() == before


@needs_posix
def test_catalog_with_a_path_too_long_for_sqlite_is_a_usage_error(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["d" * 200] * 3)
    folder.mkdir(parents=True)
    Catalog.create(folder / CATALOG_NAME, make_fingerprint(), make_origin())
    with raises(UsageError, where=folder):
        Catalog(folder / CATALOG_NAME, writable=False)
