from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from base.errors import FingerprintMismatchError, ShardDamagedError, StoreMissingError, StoreWriteError, UsageError
from base.remote import RemoteError
from features.maintenance.trim import trim_store
from features.store import FeatureStore
from features.transfer import push as push_module
from features.transfer.catalogs import StoreDivergedError
from tests.commands import run_command
from tests.errors import raises
from tests.features.stores import (
    add_features,
    copy_store,
    fill_store,
    find_all_problems,
    flip_byte,
    make_features,
    make_image,
    make_writer,
    pack,
    read_sorted,
)
from tests.features.transfer.commands import find_shard, key_of, list_shards, pull, push, read_shards
from tests.files import limit_file_size
from tests.servers import Bucket

pytestmark = pytest.mark.unit


def test_push_and_pull_give_equal_shards_rows_and_pictures(store: Path, bucket: Bucket, tmp_path: Path) -> None:
    pushed = push(store, f"{bucket.url}/cats")
    pulled = pull(f"{bucket.url}/cats", tmp_path / "pulled")
    assert (pushed.copied, pushed.present) == (pulled.copied, pulled.present) == (3, 0)
    assert pushed.num_bytes == pulled.num_bytes
    assert read_shards(tmp_path / "pulled") == read_shards(store)
    assert FeatureStore(tmp_path / "pulled").images == FeatureStore(store).images
    np.testing.assert_array_equal(read_sorted(FeatureStore(tmp_path / "pulled")), make_features(range(10)))
    assert find_all_problems(tmp_path / "pulled") == []


def test_push_copies_only_what_the_url_lacks(store: Path, url: str, tmp_path: Path) -> None:
    assert push(store, url) == (0, 3, 0)
    fill_store(store, range(10, 13))
    assert push(store, url)[:2] == (1, 3)
    pull(url, tmp_path / "pulled")
    np.testing.assert_array_equal(read_sorted(FeatureStore(tmp_path / "pulled")), make_features(range(13)))


def test_push_after_a_change_of_a_label_copies_the_catalog(store: Path, url: str, tmp_path: Path) -> None:
    with make_writer(store) as writer:
        writer.update_images([make_image(0, "owls", "train")._replace(path=make_image(0).path)], [])
    copied, _, num_bytes = push(store, url)
    assert (copied, num_bytes > 0) == (0, True)
    pull(url, tmp_path / "pulled")
    (example,) = (each for each in FeatureStore(tmp_path / "pulled").examples if each.path == make_image(0).path)
    assert (example.label, example.split) == ("owls", "train")


def test_push_of_pruned_store_to_the_same_url_fails(store: Path, url: str) -> None:
    with make_writer(store) as writer:
        writer.update_images([], [make_image(0).path])
    trim_store(store, set)
    with raises(StoreDivergedError, where=url):
        push(store, url)


def test_push_copies_no_path_view_derived_data_or_quarantine(store: Path, url: str, bucket: Bucket) -> None:
    with make_writer(store) as writer:
        writer.write_meta("images_folder", "/home/user/pictures")
    (store / "derived").mkdir()
    (store / "derived" / "factors").write_bytes(b"")
    assert push(store, url).copied == 0
    assert set(bucket.list_keys()) == {
        key_of(url, "catalog.sqlite"),
        *(key_of(url, f"shards/{n}") for n in list_shards(store)),
    }
    assert b"/home/user" not in bucket.get(key_of(url, "catalog.sqlite"))


def test_push_of_store_that_is_being_written_copies_its_committed_features(
    store: Path, bucket: Bucket, tmp_path: Path
) -> None:
    with make_writer(store) as writer:
        add_features(writer, [20, 21])
        assert push(store, f"{bucket.url}/cats").copied == 3
    pull(f"{bucket.url}/cats", tmp_path / "pulled")
    assert find_all_problems(tmp_path / "pulled") == []


def test_push_of_damaged_shard_fails_and_writes_no_catalog(store: Path, bucket: Bucket) -> None:
    shard = find_shard(store, 2)
    flip_byte(shard, 100)
    with raises(ShardDamagedError, where=shard):
        push(store, f"{bucket.url}/cats")
    keys = bucket.list_keys()
    assert f"cats/shards/{shard.name}" not in keys
    assert "cats/catalog.sqlite" not in keys


def test_push_over_other_fingerprint_fails_with_both_values(url: str, bucket: Bucket, tmp_path: Path) -> None:
    before = bucket.list_keys()
    other = copy_store(tmp_path / "other", range(10, 14), cut="mixed5")
    with raises(FingerprintMismatchError, where=url, expected="cut mixed5", got="cut mixed7"):
        push(other, url)
    assert bucket.list_keys() == before


def test_push_over_other_shards_fails(store: Path, url: str, bucket: Bucket, tmp_path: Path) -> None:
    copy_store(tmp_path / "longer", range(10))
    fill_store(tmp_path / "longer", range(20, 24))
    push(tmp_path / "longer", url)
    before = bucket.list_keys()
    fill_store(store, range(30, 34))
    with raises(StoreDivergedError, where=url):
        push(store, url)
    assert bucket.list_keys() == before


def test_push_after_a_merge_with_the_store_at_the_url_unites_both(
    store: Path, url: str, bucket: Bucket, tmp_path: Path
) -> None:
    copy_store(tmp_path / "longer", range(10))
    fill_store(tmp_path / "longer", range(20, 24))
    push(tmp_path / "longer", url)
    fill_store(store, range(30, 34))
    pull(url, tmp_path / "pulled")
    assert run_command("features.__main__", "merge", tmp_path / "pulled", "--into", store).status == 0
    push(store, url)
    pull(url, tmp_path / "united")
    assert FeatureStore(tmp_path / "united").num_features == 18


def test_push_of_lost_shard_that_was_computed_again_succeeds(store: Path, url: str, tmp_path: Path) -> None:
    find_shard(store, 3).unlink()
    with make_writer(store, rows_per_shard=1) as writer:
        add_features(writer, [8, 9])
    assert push(store, url)[:2] == (2, 2)
    pull(url, tmp_path / "pulled")
    np.testing.assert_array_equal(read_sorted(FeatureStore(tmp_path / "pulled")), make_features(range(10)))


def test_push_that_another_push_overtakes_keeps_the_other_catalog(
    store: Path, url: str, bucket: Bucket, tmp_path: Path
) -> None:
    copy_store(tmp_path / "longer", range(10))
    fill_store(tmp_path / "longer", range(20, 24))
    fill_store(store, range(30, 34))
    with pytest.MonkeyPatch.context() as patch:

        def overtake(*_: object) -> None:
            patch.undo()
            push(tmp_path / "longer", url)

        patch.setattr(push_module, "_require_sizes", overtake)
        with raises(StoreDivergedError, where=f"{url}/catalog.sqlite"):
            push(store, url)
    pull(url, tmp_path / "pulled")
    assert len(FeatureStore(tmp_path / "pulled")) == 14


def test_push_without_permission_fails_with_status_1(store: Path, bucket: Bucket) -> None:
    with bucket.forbid():
        result = run_command("features.__main__", "push", store, f"{bucket.url}/cats", "--json")
    assert (result.status, result.json["type"]) == (1, "RemoteError")
    assert result.json["where"] == f"{bucket.url}/cats/catalog.sqlite"


def test_push_to_url_with_credentials_fails_and_prints_none(store: Path, bucket: Bucket) -> None:
    result = run_command("features.__main__", "push", store, f"s3://key:secret@{bucket.name}/cats", "--json")
    assert (result.status, result.json["where"]) == (2, f"{bucket.url}/cats")
    assert "secret" not in result.out + result.err


def test_push_to_missing_bucket_fails(store: Path, bucket: Bucket) -> None:
    with raises(RemoteError, expected="an existing bucket"):
        push(store, "s3://no-such-bucket/cats")


def test_push_command_reports_copied_shards_as_json(store: Path, bucket: Bucket) -> None:
    first, second = (run_command("features.__main__", "push", store, bucket.url, "--json").json for _ in range(2))
    assert (first["copied"], first["present"]) == (3, 0)
    assert first["bytes"] == sum(map(len, map(bucket.get, bucket.list_keys())))
    assert second == {"copied": 0, "present": 3, "bytes": 0}


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_push_to_folder_writes_a_store(store: Path, prefix: str, tmp_path: Path) -> None:
    assert push(store, f"{prefix}{tmp_path}/backup/cats").copied == 3
    assert find_all_problems(tmp_path / "backup" / "cats") == []
    assert push(store, f"{prefix}{tmp_path}/backup/cats").copied == 0


def test_push_to_full_disk_fails_with_the_path_of_the_copy(store: Path, tmp_path: Path) -> None:
    with limit_file_size(100), pytest.raises(StoreWriteError) as caught:
        push(store, tmp_path / "backup")
    assert Path(str(caught.value.where)).parent == tmp_path / "backup" / "shards"
    assert push(store, tmp_path / "backup").copied == 3


def test_push_to_folder_with_other_files_fails(store: Path, tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "letter.txt").write_text("")
    with raises(StoreMissingError, where=tmp_path / "documents"):
        push(store, tmp_path / "documents")


def test_push_to_its_own_folder_fails(store: Path) -> None:
    with raises(UsageError, where="URL"):
        push(store, f"file://{store}")


def test_push_to_web_server_fails_as_usage_error(store: Path) -> None:
    with raises(UsageError, where="URL"):
        push(store, "https://127.0.0.1:1/store")


def test_push_of_packed_store_fails_as_usage_error(store: Path, bucket: Bucket, tmp_path: Path) -> None:
    pack(store, tmp_path / "packed.h5")
    with raises(UsageError, where=tmp_path / "packed.h5"):
        push(tmp_path / "packed.h5", bucket.url)


def test_push_of_missing_store_fails(bucket: Bucket, tmp_path: Path) -> None:
    with raises(StoreMissingError, where=tmp_path / "missing"):
        push(tmp_path / "missing", bucket.url)
    with raises(StoreMissingError, where=tmp_path):
        push(tmp_path, bucket.url)
