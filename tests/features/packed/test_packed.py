"""A packed store and the view: one plain file that says the same as the store."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from base.errors import (
    FeatureStoreError,
    HeadstartError,
    ShardDamagedError,
    StoreMissingError,
    TargetLockedError,
    UsageError,
)
from features.packed.write import pack_store
from features.schema import VIEW_NAME, FeatureStatus, ImageStatus
from features.shards.compression import Compression
from features.shards.shard import SHARD_FOLDER
from features.store import FeatureStore
from features.writer import FeatureWriter
from tests.features.stores import (
    SHAPE,
    add_views,
    fill_store,
    make_features,
    make_fingerprint,
    make_image,
    make_key,
    make_origin,
    make_writer,
)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    fill_store(tmp_path / "store", range(10))
    with make_writer(tmp_path / "store") as writer:
        copy = make_image(3)._replace(path="dogs/not-utf8-\udcff.jpg", split="train")
        writer.update_images([copy], ["cats/00000.jpg"])
        writer.catalog.write_meta("images_folder", "/pictures")
    return FeatureStore(tmp_path / "store")


@pytest.mark.parametrize("compression", list(Compression))
def test_packed_store_read_as_a_store_has_equal_examples_and_features(
    store: FeatureStore, tmp_path: Path, compression: Compression
) -> None:
    assert pack_store(store, tmp_path / "out.h5", compression, lambda _: None) == 10
    packed = FeatureStore(tmp_path / "out.h5")
    assert (packed.fingerprint, packed.origin) == (store.fingerprint, store.origin)
    assert [(e.path, e.label, e.split, e.content_hash) for e in packed.examples] == [
        (e.path, e.label, e.split, e.content_hash) for e in store.examples
    ]
    np.testing.assert_array_equal(packed.read(packed.examples), store.read(store.examples))


def test_packed_store_is_plain_hdf5_for_anyone(store: FeatureStore, tmp_path: Path) -> None:
    pack_store(store, tmp_path / "out.h5", Compression.GZIP, lambda _: None)
    with h5py.File(tmp_path / "out.h5") as file:
        assert file.attrs["class_names"].astype(str).tolist() == ["cats", "dogs"]
        assert [dimension.label for dimension in file["features"].dims] == ["row", "y", "x", "channel"]
        paths = file["paths"].asstr("utf-8", "surrogateescape")[:]
        for path, label, feature in zip(paths, file["labels"][:], file["features"][:], strict=True):
            assert path.split("/")[0] == ("cats", "dogs")[label]
            number = 3 if "not-utf8" in path else int(Path(path).stem)
            np.testing.assert_array_equal(feature, make_features(range(number, number + 1))[0])


def test_packed_store_keeps_views(store: FeatureStore, tmp_path: Path) -> None:
    add_views(store.path, range(2, 6), range(1, 4))
    store = FeatureStore(store.path)
    # Image 0 is gone; image 3 is there twice.
    assert pack_store(store, tmp_path / "out.h5", Compression.GZIP, lambda _: None) == 10 + 3 * 5
    packed = FeatureStore(tmp_path / "out.h5")
    assert (len(packed.examples), packed.num_views) == (10, 4)
    by_path = {example.path: example for example in packed.examples}
    for example in store.examples:
        expected, found = store.list_views(example, 4), packed.list_views(by_path[example.path], 4)
        number = 3 if "not-utf8" in example.path else int(Path(example.path).stem)
        assert len(expected) == (4 if number in range(2, 6) else 1)
        assert [view.view for view in found] == [view.view for view in expected]
        np.testing.assert_array_equal(packed.read(found), store.read(expected))


def test_packed_store_from_before_there_were_views_has_one_of_each(tmp_path: Path) -> None:
    packed = FeatureStore(Path(__file__).parents[2] / "golden/v1/packed.h5")
    assert packed.num_views == 1
    assert [packed.list_views(example, 3) for example in packed.examples] == [[e] for e in packed.examples]


def test_packed_store_with_a_flipped_feature_byte_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    pack_store(store, path, Compression.NONE, lambda _: None)
    with h5py.File(path) as file:
        offset = file["features"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[offset + 1] ^= 1
    path.write_bytes(data)
    packed = FeatureStore(path)
    with pytest.raises(FeatureStoreError, match="sound features"):
        packed.read(packed.examples)


def test_pack_onto_an_existing_file_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "out.h5").write_bytes(b"precious")
    with pytest.raises(UsageError, match="a name that is free"):
        pack_store(store, tmp_path / "out.h5", Compression.GZIP, lambda _: None)
    assert (tmp_path / "out.h5").read_bytes() == b"precious"


def run_pack(store: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "features", "pack", str(store), str(out), "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_pack_onto_its_own_result_succeeds_and_leaves_it(store: FeatureStore, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    first = run_pack(store.path, out)
    inode = out.stat().st_ino
    again = run_pack(store.path, out)
    assert (first.returncode, again.returncode) == (0, 0), again.stderr
    assert json.loads(again.stdout) == json.loads(first.stdout)
    assert out.stat().st_ino == inode


def test_pack_onto_a_pack_of_other_pictures_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    pack_store(store, out, Compression.GZIP, lambda _: None)
    data = out.read_bytes()
    fill_store(store.path, range(11))
    done = run_pack(store.path, out)
    assert (done.returncode, out.read_bytes() == data) == (2, True), done.stderr


def test_store_that_is_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_bytes(b"text")
    with pytest.raises(StoreMissingError):
        FeatureStore(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(StoreMissingError, match="another HDF5 file"):
        FeatureStore(tmp_path / "other.h5")


def test_view_shows_every_row_with_its_path_label_and_split(store: FeatureStore) -> None:
    with h5py.File(store.path / VIEW_NAME) as file:
        np.testing.assert_array_equal(file["features"][:], make_features(range(10)))
        paths = file["paths"].asstr("utf-8", "surrogateescape")[:].tolist()
        assert paths == ["", *(make_image(number).path for number in range(1, 10))]
        assert file["labels"].asstr()[:4].tolist() == ["", "dogs", "cats", "dogs"]


def test_view_shows_augmentations_with_their_number_and_the_pictures_path(store: FeatureStore) -> None:
    add_views(store.path, range(4, 6), range(1, 3))
    with h5py.File(store.path / VIEW_NAME) as file:
        assert file["views"][:].tolist() == [0] * 10 + [1, 2, 1, 2]
        paths = file["paths"].asstr("utf-8", "surrogateescape")[10:].tolist()
        assert paths == [make_image(number).path for number in (4, 4, 5, 5)]
        expected = [make_features(range(number, number + 1))[0] for number in (1004, 2004, 1005, 2005)]
        np.testing.assert_array_equal(file["features"][10:], expected)


def test_view_shows_nan_for_a_missing_shard(store: FeatureStore) -> None:
    (store.path / SHARD_FOLDER / store.shards[1].name).unlink()
    with h5py.File(store.path / VIEW_NAME) as file:
        assert np.isnan(file["features"][4:8]).all()
        np.testing.assert_array_equal(file["features"][:4], make_features(range(4)))


def test_info_and_pack_commands_print_what_they_found(store: FeatureStore, tmp_path: Path) -> None:
    def run(*arguments: str) -> dict[str, object]:
        command = [sys.executable, "-m", "features", *arguments, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
        return dict(json.loads(done.stdout))

    info = run("info", str(store.path))
    assert info["images"] == [
        {"split": "", "label": "cats", "status": "done", "count": 4},
        {"split": "", "label": "dogs", "status": "done", "count": 5},
        {"split": "train", "label": "dogs", "status": "done", "count": 1},
    ]
    assert (info["features"], info["examples"], info["feature_shape"]) == (10, 10, list(SHAPE))
    packed = run("pack", str(store.path), str(tmp_path / "out.h5"))
    assert packed["features"] == 10
    assert run("info", str(tmp_path / "out.h5"))["examples"] == 10


def test_packed_store_lists_images_in_the_order_of_their_paths_as_the_folder_does(tmp_path: Path) -> None:
    numbers = [5, 0, 3, 8, 1, 2]
    with make_writer(tmp_path / "store") as writer:
        for number in numbers:
            writer.add_features([make_key(number)], make_features(range(number, number + 1)), [FeatureStatus.OK])
            path = f"é/{number}.jpg" if number == 3 else f"Z\udcff/{number}.jpg" if number == 8 else ""
            writer.add_image(make_image(number)._replace(path=path or make_image(number).path))
        writer.commit()
    store = FeatureStore(tmp_path / "store")
    pack_store(store, tmp_path / "out.h5", Compression.GZIP, lambda _: None)
    packed = FeatureStore(tmp_path / "out.h5")
    assert [example.path for example in packed.examples] == [example.path for example in store.examples]
    assert packed.examples[0].path == "Z\udcff/8.jpg"


def test_packed_store_keeps_the_images_that_have_no_row(store: FeatureStore, tmp_path: Path) -> None:
    with make_writer(store.path) as writer:
        statuses = [FeatureStatus.OVERFLOW, FeatureStatus.NONFINITE]
        writer.add_features([make_key(20), make_key(21)], make_features(range(20, 22)), statuses)
        for number in (20, 21, 22):
            writer.add_image(make_image(number, split="validation"))
        pending = make_image(23)._replace(status=ImageStatus.PENDING, content_hash=None)
        failed = make_image(24)._replace(status=ImageStatus.FAILED, content_hash=None, reason="no picture")
        for image in (pending, failed):
            writer.add_image(image)
        writer.commit()
    store = FeatureStore(store.path)
    assert pack_store(store, tmp_path / "out.h5", Compression.GZIP, lambda _: None) == 10
    packed = FeatureStore(tmp_path / "out.h5")
    assert packed.num_pending == store.num_pending == 2
    assert [image.path for image in packed.images] == [image.path for image in store.images]

    def describe(opened: FeatureStore) -> list[tuple[object, ...]]:
        found = opened.list_unusable()
        return [(f.image.path, f.image.label, f.image.split, f.reason, f.detail) for f in found]

    assert describe(packed) == describe(store)
    pack_store(packed, tmp_path / "again.h5", Compression.NONE, lambda _: None)
    assert describe(FeatureStore(tmp_path / "again.h5")) == describe(store)


@pytest.mark.parametrize("how", ["renamed over", "removed", "written in place", "cut short"])
def test_packed_store_that_is_changed_while_open_gives_no_other_rows(
    store: FeatureStore, tmp_path: Path, how: str
) -> None:
    path, other = tmp_path / "out.h5", tmp_path / "other.h5"
    pack_store(store, path, Compression.NONE, lambda _: None)
    fill_store(tmp_path / "two", range(40, 50))
    pack_store(FeatureStore(tmp_path / "two"), other, Compression.NONE, lambda _: None)
    packed = FeatureStore(path)
    before = packed.read(packed.examples)
    if how == "renamed over":
        other.replace(path)
    elif how == "removed":
        path.unlink()
    else:
        data = other.read_bytes()
        path.write_bytes(data if how == "written in place" else data[:1000])
    with pytest.raises(ShardDamagedError):
        packed.read(packed.examples)
    with pytest.raises(ShardDamagedError):
        packed.hash_sources(packed.examples)
    np.testing.assert_array_equal(before, store.read(store.examples))


def test_pack_and_shards_hold_no_path_of_this_machine(tmp_path: Path) -> None:
    place = "/home/somebody/secret"
    origin = replace(make_origin(), weights_name="file", weights_file=f"{place}/mine.h5", weights_file_sha256="ab" * 32)
    with FeatureWriter(tmp_path / "store", make_fingerprint(), origin) as writer:
        writer.add_features([make_key(0)], make_features(range(1)), [FeatureStatus.OK])
        writer.add_image(make_image(0))
        writer.commit()
        writer.write_meta("images_folder", f"{place}/pictures")
    store = FeatureStore(tmp_path / "store")
    assert (store.origin, store.images_folder) == (origin, f"{place}/pictures")
    pack_store(store, tmp_path / "out.h5", Compression.NONE, lambda _: None)
    packed = FeatureStore(tmp_path / "out.h5")
    assert (packed.origin, packed.images_folder) == (replace(origin, weights_file="mine.h5"), "")
    for path in (tmp_path / "out.h5", *(store.path / SHARD_FOLDER).iterdir(), store.path / VIEW_NAME):
        assert b"secret" not in path.read_bytes()


def test_two_packs_of_one_name_at_once_give_one_refusal_and_one_pack(store: FeatureStore, tmp_path: Path) -> None:
    out, refused = tmp_path / "out.h5", []

    def pack_again(_: int) -> None:
        with pytest.raises(HeadstartError) as caught:
            pack_store(store, out, Compression.GZIP, lambda _: None)
        refused.append(caught.value)

    assert pack_store(store, out, Compression.GZIP, pack_again) == 10
    assert [type(error) for error in refused] == [TargetLockedError]
    np.testing.assert_array_equal(FeatureStore(out).read(FeatureStore(out).examples), store.read(store.examples))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.h5", "store"]


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("limit", [1, 100_000, 600_000])
def test_pack_whose_file_may_not_grow_is_an_error_and_leaves_nothing(
    tmp_path: Path, compression: Compression, limit: int
) -> None:
    shape = (7, 7, 96)
    with FeatureWriter(tmp_path / "store", make_fingerprint(), make_origin(shape)) as writer:
        writer.add_features(
            [make_key(n) for n in range(300)], make_features(range(300), shape), [FeatureStatus.OK] * 300
        )
        for number in range(300):
            writer.add_image(make_image(number))
        writer.commit()
    program = (
        "import pathlib, resource, signal, sys\n"
        "from features.shards.compression import Compression\n"
        "from base.errors import StoreWriteError\n"
        "from features.packed.write import pack_store\n"
        "from features.store import FeatureStore\n"
        "from base import files\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "store = FeatureStore(folder / 'store')\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "open_synced = files.open_synced\n"
        "def limited(path):\n"
        f"    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))\n"
        "    return open_synced(path)\n"
        "files.open_synced = limited\n"
        "try:\n"
        f"    pack_store(store, folder / 'out.h5', Compression.{compression.name}, lambda _: None)\n"
        "except StoreWriteError as error:\n"
        "    print(error.where)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/out.h5\n"), done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name != "store"] == []


def test_pack_without_compression_asks_for_the_room_of_plain_features(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = 10 * 2 * int(np.prod(SHAPE))
    monkeypatch.setattr("features.packed.write.require_space", lambda _, num_bytes: asked.append(num_bytes))
    asked: list[int] = []
    pack_store(store, tmp_path / "out.h5", Compression.NONE, lambda _: None)
    assert asked == [plain]
