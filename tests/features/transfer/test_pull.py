from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from base.errors import (
    CatalogDamagedError,
    FingerprintMismatchError,
    ShardDamagedError,
    StoreMissingError,
    StoreWriteError,
    UsageError,
)
from base.remote import RemoteError
from features.quantized import ModelDamagedError, QuantizedModel
from features.store import FeatureStore
from features.store_writer import FeatureWriter
from features.transfer.catalogs import StoreDivergedError
from tests.commands import run_command
from tests.errors import raises
from tests.extract.webserver import WebServer, run_server
from tests.features.stores import (
    add_features,
    copy_store,
    fill_store,
    find_all_problems,
    make_features,
    make_fingerprint,
    make_image,
    make_origin,
    make_writer,
    read_sorted,
)
from tests.features.transfer.commands import find_shard, key_of, list_shards, pull, push, read_shards
from tests.files import limit_file_size, read_files
from tests.servers import Bucket

pytestmark = pytest.mark.unit


@pytest.fixture
def server() -> Iterator[WebServer]:
    with run_server() as site:
        yield site


def test_pull_into_older_copy_adds_shards_and_keeps_its_folder_of_pictures(
    store: Path, url: str, tmp_path: Path
) -> None:
    pull(url, tmp_path / "pulled")
    with make_writer(tmp_path / "pulled") as writer:
        writer.write_meta("images_folder", "/home/user/pictures")
    fill_store(store, range(10, 13))
    push(store, url)
    assert pull(url, tmp_path / "pulled")[:2] == (1, 3)
    assert pull(url, tmp_path / "pulled") == (0, 4, 0)
    pulled = FeatureStore(tmp_path / "pulled")
    assert pulled.images_folder == "/home/user/pictures"
    np.testing.assert_array_equal(read_sorted(pulled), make_features(range(13)))


def test_pull_twice_copies_nothing(url: str, tmp_path: Path) -> None:
    pull(url, tmp_path / "pulled")
    before = read_files(tmp_path / "pulled")
    assert pull(url, tmp_path / "pulled") == (0, 3, 0)
    assert read_files(tmp_path / "pulled") == before


def test_pull_into_store_with_other_features_fails(store: Path, url: str, tmp_path: Path) -> None:
    pull(url, tmp_path / "pulled")
    fill_store(tmp_path / "pulled", range(20, 22))
    before = read_files(tmp_path / "pulled")
    with raises(StoreDivergedError, where=tmp_path / "pulled"):
        pull(url, tmp_path / "pulled")
    assert read_files(tmp_path / "pulled") == before


def test_pull_into_store_with_other_pictures_fails(store: Path, url: str, tmp_path: Path) -> None:
    pull(url, tmp_path / "pulled")
    with make_writer(store) as writer:
        writer.update_images([], [make_image(0).path])
    push(store, url)
    with raises(StoreDivergedError, where=tmp_path / "pulled", got="1 other picture"):
        pull(url, tmp_path / "pulled")


def test_pull_over_other_fingerprint_fails_with_both_values(url: str, tmp_path: Path) -> None:
    other = copy_store(tmp_path / "other", range(10, 14), cut="mixed5")
    with raises(FingerprintMismatchError, where=other, expected="cut mixed7", got="cut mixed5"):
        pull(url, other)


def test_pull_into_folder_with_other_files_fails(url: str, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("")
    with raises(StoreMissingError, where=tmp_path):
        pull(url, tmp_path)
    assert list(tmp_path.glob("shards")) == []


def test_pull_beside_shards_without_catalog_keeps_those_that_the_url_lacks(
    url: str, store: Path, tmp_path: Path
) -> None:
    copy_store(tmp_path / "other", range(20, 24))
    (tmp_path / "other" / "catalog.sqlite").unlink()
    with raises(StoreDivergedError, where=tmp_path / "other" / "shards" / list_shards(tmp_path / "other")[0]):
        pull(url, tmp_path / "other")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "longer", "missing"])
def test_pull_of_damaged_shard_fails_and_continues_when_it_is_intact(
    store: Path, url: str, bucket: Bucket, tmp_path: Path, damage: str
) -> None:
    name = f"shards/{find_shard(store, 2).name}"
    key = key_of(url, name)
    data = bucket.get(key)
    if damage == "missing":
        bucket.delete(key)
    else:
        bucket.put(key, {"truncated": data[:-1], "flipped": b"\0" + data[1:], "longer": data + b"\0"}[damage])
    with raises(ShardDamagedError, where=f"{url}/{name}"):
        pull(url, tmp_path / "pulled")
    assert not (tmp_path / "pulled" / name).exists()
    assert not (tmp_path / "pulled" / "catalog.sqlite").exists()
    bucket.put(key, data)
    pulled = pull(url, tmp_path / "pulled")
    assert pulled.copied + pulled.present == 3
    assert find_all_problems(tmp_path / "pulled") == []


@pytest.mark.parametrize("text", [b"SQLite format", b"cats/00002.jpg"])
def test_pull_of_damaged_catalog_fails(url: str, bucket: Bucket, tmp_path: Path, text: bytes) -> None:
    key = key_of(url, "catalog.sqlite")
    data = bucket.get(key)
    assert text in data
    bucket.put(key, data.replace(text, b"x" * len(text)))
    with raises(CatalogDamagedError, where=f"{url}/catalog.sqlite"):
        pull(url, tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()


def test_pull_to_full_disk_fails_and_continues(tmp_path: Path) -> None:
    shape = (8, 8, 64)
    with FeatureWriter(tmp_path / "store", make_fingerprint(), make_origin(shape)) as writer:
        add_features(writer, range(8), shape=shape)
        writer.commit()
    with limit_file_size(30_000), raises(StoreWriteError) as caught:
        pull(tmp_path / "store", tmp_path / "pulled")
    assert str(tmp_path / "pulled") in str(caught.value.where)
    assert list_shards(tmp_path / "pulled") == []
    assert pull(tmp_path / "store", tmp_path / "pulled").copied == 1


def test_pull_without_permission_fails_with_status_1(url: str, bucket: Bucket, tmp_path: Path) -> None:
    with bucket.forbid():
        result = run_command("features.__main__", "pull", url, tmp_path / "pulled", "--json")
    assert (result.status, result.json["type"]) == (1, "RemoteError")
    assert result.json["where"] == f"{url}/catalog.sqlite"


def test_pull_of_url_without_store_fails(bucket: Bucket, tmp_path: Path) -> None:
    with raises(StoreMissingError, where=f"{bucket.url}/nothing"):
        pull(f"{bucket.url}/nothing", tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()


def test_pull_of_unknown_scheme_fails_as_usage_error(tmp_path: Path) -> None:
    with raises(UsageError, where="s4://bucket/cats"):
        pull("s4://bucket/cats", tmp_path / "pulled")


def test_pull_from_web_server_verifies_shards(store: Path, server: WebServer, tmp_path: Path) -> None:
    for name, data in read_files(store).items():
        server.serve(f"/cats/{name}", data)
    assert pull(f"{server.url}/cats", tmp_path / "pulled").copied == 3
    assert find_all_problems(tmp_path / "pulled") == []


def test_pull_of_answer_that_is_cut_short_fails(store: Path, server: WebServer, tmp_path: Path) -> None:
    for name, data in read_files(store).items():
        server.serve(f"/cats/{name}", data)
    name = f"shards/{find_shard(store, 2).name}"
    data = (store / name).read_bytes()
    server.serve(f"/cats/{name}", data[:100])
    with raises(ShardDamagedError, where=f"{server.url}/cats/{name}"):
        pull(f"{server.url}/cats", tmp_path / "pulled")


def test_pull_from_closed_port_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("base.remote.RETRY_DELAYS_S", (0.0,))
    with raises(RemoteError, where="http://127.0.0.1:1/cats/catalog.sqlite") as caught:
        pull("http://user:secret@127.0.0.1:1/cats?token=secret", tmp_path / "pulled")
    assert "secret" not in str(caught.value)


def test_pull_of_several_cuts_copies_each_and_only_those_requested(bucket: Bucket, tmp_path: Path) -> None:
    for cut in ("mixed5", "mixed7"):
        copy_store(tmp_path / "stores" / cut, range(4), cut=cut)
    result = run_command("features.__main__", "push", tmp_path / "stores", bucket.url, "--json")
    assert {cut: found["copied"] for cut, found in result.json["cuts"].items()} == {"mixed5": 1, "mixed7": 1}
    pull(bucket.url, tmp_path / "one", "mixed7")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["mixed7"]
    pull(bucket.url, tmp_path / "all")
    for cut in ("mixed5", "mixed7"):
        assert read_shards(tmp_path / "all" / cut) == read_shards(tmp_path / "stores" / cut)
    with raises(UsageError, where="--cut"):
        pull(bucket.url, tmp_path / "one", "mixed9")


def test_pull_and_push_of_another_layout_fail(store: Path, url: str, bucket: Bucket, tmp_path: Path) -> None:
    copy_store(tmp_path / "stores" / "mixed5", range(4), cut="mixed5")
    with raises(StoreMissingError, where=tmp_path / "stores"):
        pull(url, tmp_path / "stores")
    with raises(StoreMissingError, where=url):
        push(tmp_path / "stores", url)


def test_pull_of_int8_store_copies_its_backbone_and_verifies_it(bucket: Bucket, tmp_path: Path) -> None:
    model = QuantizedModel(b"graph", b"weights")
    fingerprint = make_fingerprint(precision="int8", calibration=model.digest)
    with FeatureWriter(tmp_path / "store", fingerprint, make_origin()) as writer:
        writer.write_quantized(model)
        writer.update_images([make_image(0)], [])
        add_features(writer, [0])
        writer.commit()
    push(tmp_path / "store", bucket.url)
    pull(bucket.url, tmp_path / "pulled")
    assert find_all_problems(tmp_path / "pulled") == []
    assert pull(bucket.url, tmp_path / "pulled").num_bytes == 0
    bucket.put("backbone/int8.bin", b"Weights")
    with raises(ModelDamagedError, where=f"{bucket.url}/backbone"):
        pull(bucket.url, tmp_path / "other")
