"""Write and read a packed store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from base import files
from base.errors import (
    FeatureStoreError,
    ShardDamagedError,
    StoreMissingError,
    StoreWriteError,
    TargetLockedError,
    UsageError,
)
from base.terminal import Console, ConsoleOptions
from features.__main__ import PackConfig
from features.__main__ import pack as run_pack
from features.options import Compression
from features.packed.write import pack_store
from features.schema import VIEW_NAME, FeatureStatus, ImageStatus
from features.shards.shard import SHARD_FOLDER
from features.store import FeatureStore
from features.store_writer import FeatureWriter
from tests.errors import raises
from tests.features.stores import (
    SHAPE,
    add_features,
    add_views,
    copy_store,
    fill_store,
    flip_byte,
    make_features,
    make_fingerprint,
    make_image,
    make_origin,
    make_writer,
    pack,
)
from tests.files import limit_file_size

pytestmark = pytest.mark.unit

GOLDEN = Path(__file__).parents[2] / "golden/v1"


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Store of ten features, with a removed picture, a duplicate, and a path that is not UTF-8."""
    copy_store(tmp_path / "store", range(10))
    with make_writer(tmp_path / "store") as writer:
        copy = make_image(3)._replace(path="dogs/not-utf8-\udcff.jpg", split="train")
        writer.update_images([copy], ["cats/00000.jpg"])
        writer.write_meta("images_folder", "/pictures")
    return FeatureStore(tmp_path / "store")


def get_number(path: str) -> int:
    """Return the number of a picture of `store` from its path."""
    return 3 if "not-utf8" in path else int(Path(path).stem)


@pytest.mark.parametrize("compression", list(Compression))
def test_packed_store_has_equal_examples_and_features(
    store: FeatureStore, tmp_path: Path, compression: Compression
) -> None:
    assert pack_store(store, tmp_path / "out.h5", compression, lambda _: None) == 10
    packed = FeatureStore(tmp_path / "out.h5")
    assert (packed.fingerprint, packed.origin) == (store.fingerprint, store.origin)
    assert [(e.path, e.label, e.split, e.content_hash) for e in packed.examples] == [
        (e.path, e.label, e.split, e.content_hash) for e in store.examples
    ]
    np.testing.assert_array_equal(packed.read(packed.examples), store.read(store.examples))


def test_packed_store_is_readable_by_h5py(store: FeatureStore, tmp_path: Path) -> None:
    pack(store, tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        assert file.attrs["class_names"].astype(str).tolist() == ["cats", "dogs"]
        assert [dimension.label for dimension in file["features"].dims] == ["row", "y", "x", "channel"]
        paths = file["paths"].asstr("utf-8", "surrogateescape")[:]
        assert [path.split("/")[0] for path in paths] == [("cats", "dogs")[label] for label in file["labels"][:]]
        np.testing.assert_array_equal(file["features"][:], make_features(map(get_number, paths)))


def test_packed_store_has_all_views(store: FeatureStore, tmp_path: Path) -> None:
    add_views(store.path, range(2, 6), range(1, 4))
    store = FeatureStore(store.path)
    # Picture 0 was removed, and picture 3 has a duplicate.
    assert pack_store(store, tmp_path / "out.h5", Compression.GZIP, lambda _: None) == 10 + 3 * 5
    packed = FeatureStore(tmp_path / "out.h5")
    assert (len(packed.examples), packed.num_views) == (10, 4)
    by_path = {example.path: example for example in packed.examples}
    for example in store.examples:
        expected, found = store.list_views(example, 4), packed.list_views(by_path[example.path], 4)
        assert len(expected) == (4 if get_number(example.path) in range(2, 6) else 1)
        assert [view.view for view in found] == [view.view for view in expected]
        np.testing.assert_array_equal(packed.read(found), store.read(expected))


def test_packed_store_of_version_1_has_one_view() -> None:
    packed = FeatureStore(GOLDEN / "packed.h5")
    assert packed.num_views == 1
    assert [packed.list_views(example, 3) for example in packed.examples] == [[e] for e in packed.examples]


def test_packed_store_flipped_feature_byte_is_an_error(store: FeatureStore, tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    pack(store, path, Compression.NONE)
    with h5py.File(path) as file:
        offset = file["features"].id.get_chunk_info(0).byte_offset
    flip_byte(path, offset + 1)
    packed = FeatureStore(path)
    with raises(ShardDamagedError, where=path):
        packed.read(packed.examples)


def test_pack_existing_file_is_usage_error_and_unchanged(store: FeatureStore, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    out.write_bytes(b"precious")
    with raises(UsageError, where=out):
        pack(store, out)
    assert out.read_bytes() == b"precious"


def test_pack_without_features_is_an_error(tmp_path: Path) -> None:
    with make_writer(tmp_path / "store"):
        pass
    with raises(FeatureStoreError, where=tmp_path / "store"):
        pack(tmp_path / "store", tmp_path / "store.h5")
    assert not (tmp_path / "store.h5").exists()


def test_pack_missing_folder_is_usage_error(store: FeatureStore, tmp_path: Path) -> None:
    with raises(UsageError, where=tmp_path / "missing/out.h5"):
        pack(store, tmp_path / "missing/out.h5")


def test_pack_command_onto_its_own_result_succeeds_and_keeps_it(store: FeatureStore, tmp_path: Path) -> None:
    config, console = PackConfig(store.path, tmp_path / "out.h5"), Console(ConsoleOptions(quiet=True))
    first = run_pack(config, console)
    inode = config.out.stat().st_ino
    assert run_pack(config, console) == first
    assert config.out.stat().st_ino == inode


def test_pack_command_onto_another_packed_store_is_usage_error(store: FeatureStore, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    pack(store, out)
    data = out.read_bytes()
    fill_store(store.path, range(11))
    with raises(UsageError, where=out):
        run_pack(PackConfig(store.path, out), Console(ConsoleOptions(quiet=True)))
    assert out.read_bytes() == data


def test_store_other_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_bytes(b"text")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    for name in ("text.h5", "other.h5"):
        with raises(StoreMissingError, where=tmp_path / name):
            FeatureStore(tmp_path / name)


def test_packed_store_lists_images_in_the_order_of_the_folder(tmp_path: Path) -> None:
    names = {3: "é/3.jpg", 8: "Z\udcff/8.jpg"}
    with make_writer(tmp_path / "store") as writer:
        for number in (5, 0, 3, 8, 1, 2):
            add_features(writer, [number])
            writer.add_image(make_image(number)._replace(path=names.get(number, make_image(number).path)))
        writer.commit()
    store = FeatureStore(tmp_path / "store")
    packed = pack(store, tmp_path / "out.h5")
    assert [example.path for example in packed.examples] == [example.path for example in store.examples]
    assert packed.examples[0].path == "Z\udcff/8.jpg"


def test_packed_store_has_the_images_without_a_row(store: FeatureStore, tmp_path: Path) -> None:
    with make_writer(store.path) as writer:
        add_features(writer, [20, 21], [FeatureStatus.OVERFLOW, FeatureStatus.NONFINITE])
        for number in (20, 21, 22):
            writer.add_image(make_image(number, split="validation"))
        writer.add_image(make_image(23)._replace(status=ImageStatus.PENDING, content_hash=None))
        writer.add_image(make_image(24)._replace(status=ImageStatus.FAILED, content_hash=None, reason="truncated"))
        writer.commit()
    store = FeatureStore(store.path)
    packed = pack(store, tmp_path / "out.h5")
    assert len(packed) == 10
    assert packed.num_pending == store.num_pending == 2
    assert [image.path for image in packed.images] == [image.path for image in store.images]

    def describe(opened: FeatureStore) -> list[tuple[object, ...]]:
        found = opened.list_unusable()
        return [(f.image.path, f.image.label, f.image.split, f.reason, f.detail) for f in found]

    assert len(describe(store)) == 5
    assert describe(packed) == describe(store)
    assert describe(pack(packed, tmp_path / "again.h5", Compression.NONE)) == describe(store)


@pytest.mark.parametrize("change", ["replaced", "removed", "overwritten", "truncated"])
def test_packed_store_changed_while_open_is_an_error(store: FeatureStore, tmp_path: Path, change: str) -> None:
    path = tmp_path / "out.h5"
    packed = pack(store, path, Compression.NONE)
    other = pack(copy_store(tmp_path / "two", range(40, 50)), tmp_path / "other.h5", Compression.NONE).path
    before = packed.read(packed.examples)
    if change == "replaced":
        other.replace(path)
    elif change == "removed":
        path.unlink()
    else:
        data = other.read_bytes()
        path.write_bytes(data if change == "overwritten" else data[:1000])
    with raises(ShardDamagedError, where=path):
        packed.read(packed.examples)
    with raises(ShardDamagedError, where=path):
        packed.hash_sources(packed.examples)
    np.testing.assert_array_equal(before, store.read(store.examples))


def test_packed_store_and_shards_have_no_path_of_this_machine(tmp_path: Path) -> None:
    folder = "/home/somebody/secret"
    origin = replace(make_origin(), weights_name="file", weights_file=f"{folder}/mine.h5", weights_file_sha256="0" * 64)
    with FeatureWriter(tmp_path / "store", make_fingerprint(), origin) as writer:
        add_features(writer, [0])
        writer.add_image(make_image(0))
        writer.commit()
        writer.write_meta("images_folder", f"{folder}/pictures")
    store = FeatureStore(tmp_path / "store")
    assert (store.origin, store.images_folder) == (origin, f"{folder}/pictures")
    packed = pack(store, tmp_path / "out.h5", Compression.NONE)
    assert (packed.origin, packed.images_folder) == (replace(origin, weights_file="mine.h5"), "")
    for path in (tmp_path / "out.h5", *(store.path / SHARD_FOLDER).iterdir(), store.path / VIEW_NAME):
        assert b"secret" not in path.read_bytes()


def test_pack_twice_at_once_gives_one_file_and_one_error(store: FeatureStore, tmp_path: Path) -> None:
    out, errors = tmp_path / "out.h5", []

    def pack_again(_: int) -> None:
        with raises(TargetLockedError, where=out) as caught:
            pack(store, out)
        errors.append(caught.value)

    assert pack_store(store, out, Compression.GZIP, pack_again) == 10
    assert len(errors) == 1
    np.testing.assert_array_equal(FeatureStore(out).read(FeatureStore(out).examples), store.read(store.examples))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.h5", "store"]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Store of 100 features, 922 kB in all; tests must not change it."""
    folder, shape = tmp_path_factory.mktemp("large") / "store", (7, 7, 96)
    with FeatureWriter(folder, make_fingerprint(), make_origin(shape)) as writer:
        add_features(writer, range(100), shape=shape)
        for number in range(100):
            writer.add_image(make_image(number))
        writer.commit()
    return FeatureStore(folder)


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("limit", [1, 30_000, 200_000])
def test_pack_full_disk_is_an_error_and_leaves_no_file(
    large: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: Compression, limit: int
) -> None:
    open_synced = files.open_synced

    @contextmanager
    def open_limited(path: Path) -> Iterator[object]:
        with limit_file_size(limit), open_synced(path) as file:
            yield file

    monkeypatch.setattr(files, "open_synced", open_limited)
    with raises(StoreWriteError, where=tmp_path / "out.h5"):
        pack(large, tmp_path / "out.h5", compression)
    assert list(tmp_path.iterdir()) == []


def test_pack_without_compression_requires_the_space_of_the_features(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    required: list[int] = []
    monkeypatch.setattr("features.packed.write.require_space", lambda _, num_bytes: required.append(num_bytes))
    pack(store, tmp_path / "out.h5", Compression.NONE)
    assert required == [10 * 2 * int(np.prod(SHAPE))]
