"""Extraction from archives, shards, a web server and S3: the same store as from a local folder."""

from __future__ import annotations

import http.server
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Thread

import pytest

from base import remote
from base.errors import HeadstartError, UsageError
from base.places.open import open_pictures, open_place
from base.remote import RemoteError
from base.urls import UrlPath
from features.maintenance.check import find_problems
from features.schema import ImageStatus
from features.store import FeatureStore
from tests.archives import read_tree, write_tar, write_zip
from tests.commands import run_command
from tests.errors import raises
from tests.extract.extraction import assert_equal_stores, extract, read_by_key
from tests.pictures import draw_picture, encode
from tests.servers import Bucket


@pytest.fixture
def files(shared_pictures: Path) -> dict[str, bytes]:
    """Bytes of the pictures of `shared_pictures`, by path."""
    return read_tree(shared_pictures)


@pytest.fixture
def uploaded(bucket: Bucket, files: dict[str, bytes]) -> str:
    """URL of a folder with the pictures in a bucket."""
    for name, data in files.items():
        bucket.put(f"pictures/{name}", data)
    return f"{bucket.url}/pictures"


@dataclass
class Site:
    """Web server that lists a folder, and sends whole files only."""

    folder: Path
    url: str = ""
    num_left: float = math.inf
    """Number of files that it still sends before it is overloaded (503)."""
    sent: list[str] = field(default_factory=list)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Web server with an empty folder."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(remote, "RETRY_DELAYS_S", (0.0, 0.0))
    site = Site(tmp_path / "web")
    site.folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.endswith("/"):
                site.num_left -= 1
                site.sent.append(self.path)
            if site.num_left < 0:
                self.send_error(503)
            else:
                super().do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(site.folder))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        site.url = f"http://127.0.0.1:{server.server_port}"
        yield site
        server.shutdown()
        thread.join()


def test_extract_from_a_bucket_gives_the_store_of_the_folder_and_follows_changes(
    uploaded: str, bucket: Bucket, shared_store: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    images = UrlPath.parse(uploaded)
    assert extract(images, store).computed == 16
    assert_equal_stores(store, shared_store)
    assert FeatureStore(store).images_folder == uploaded
    repeated = extract(images, store)
    assert (repeated.computed, repeated.reused) == (0, 16)

    bucket.put("pictures/train/cats/000.jpg", encode(draw_picture("cats", 800), "JPEG"))
    bucket.put("pictures/train/cats//odd.jpg", b"")
    changed = extract(images, store)
    assert (changed.computed, changed.removed, changed.failed) == (1, 0, [])
    assert [found["path"] for found in changed.skipped] == ["train/cats//odd.jpg"]
    assert extract(UrlPath.parse(f"{bucket.url}/pictures/validation"), tmp_path / "part").computed == 4
    with bucket.forbid(), pytest.raises(RemoteError):
        extract(images, store)
    assert {image.status for image in FeatureStore(store).images} == {ImageStatus.DONE}


@pytest.mark.parametrize("name", ["pictures.zip", "pictures.tar", "pictures.tar.gz"])
def test_extract_from_a_local_archive_gives_the_store_of_the_folder(
    name: str, files: dict[str, bytes], shared_store: Path, tmp_path: Path
) -> None:
    path = tmp_path / name
    write_zip(path, files) if name.endswith("zip") else write_tar(path, files, "w:gz" if name.endswith("gz") else "w")

    assert extract(path, tmp_path / "store").computed == 16

    assert_equal_stores(tmp_path / "store", shared_store)
    assert FeatureStore(tmp_path / "store").images_folder == str(path)
    place = open_pictures(path)
    assert find_problems(tmp_path / "store", read_data=False, images=place, advance=lambda _: None) == []
    assert extract(path, tmp_path / "store").computed == 0


def test_extract_from_shards_gives_the_features_of_the_folder(
    files: dict[str, bytes], shared_store: Path, bucket: Bucket, tmp_path: Path
) -> None:
    members: dict[str, bytes] = {}
    for number, (name, data) in enumerate(files.items()):
        members |= {f"{number:06}.jpg": data, f"{number:06}.cls": str(int("dogs" in name)).encode()}
    shard = write_tar(tmp_path / "train-000.tar", members).read_bytes()
    bucket.put("shards/train-000.tar", shard)
    bucket.put("shards/index.json", b"{}")

    result = extract(UrlPath.parse(f"{bucket.url}/shards"), tmp_path / "store")

    assert (result.computed, result.failed) == (16, [])
    assert read_by_key(tmp_path / "store").keys() == read_by_key(shared_store).keys()
    assert {example.label for example in FeatureStore(tmp_path / "store").examples} == {"0", "1"}


def test_extract_from_a_web_server_gives_the_store_of_the_folder(
    site: Site, shared_pictures: Path, shared_store: Path, files: dict[str, bytes], tmp_path: Path
) -> None:
    shutil.copytree(shared_pictures, site.folder / "pictures")
    write_zip(site.folder / "a.zip", files)
    for name in ("pictures/", "a.zip"):
        store = tmp_path / f"store of {name[0]}"
        assert extract(UrlPath.parse(f"{site.url}/{name}"), store).computed == 16
        assert_equal_stores(store, shared_store)


def test_lost_connection_stops_the_run_and_keeps_what_is_stored(
    site: Site, shared_pictures: Path, shared_store: Path, tmp_path: Path
) -> None:
    shutil.copytree(shared_pictures, site.folder / "pictures")
    images, store = UrlPath.parse(f"{site.url}/pictures"), tmp_path / "store"
    site.num_left = 12
    with pytest.raises(RemoteError) as caught:
        extract(images, store)
    assert site.url in str(caught.value.where)
    # The pictures that were not read are pending, and none has failed.
    assert ImageStatus.FAILED not in {image.status for image in FeatureStore(store).images}

    site.num_left = math.inf
    assert extract(images, store).failed == []
    assert_equal_stores(store, shared_store)


def test_damaged_member_is_a_bad_picture_and_a_damaged_archive_an_error(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, files | {"train/cats/000.jpg": files["train/cats/000.jpg"][:500]})
    result = extract(path, tmp_path / "store", max_bad=0.1)
    assert ([failed["image"] for failed in result.failed], result.computed) == (["train/cats/000.jpg"], 15)
    path.write_bytes(path.read_bytes()[:-20_000])
    with raises(HeadstartError, where=path):
        extract(path, tmp_path / "store")


@pytest.mark.unit
@pytest.mark.parametrize("url", ["gs://bucket/pictures", "nosuch://bucket", "dropbox://folder"])
def test_scheme_without_its_package_is_refused(url: str, tmp_path: Path) -> None:
    with raises(UsageError, where=url):
        extract(UrlPath.parse(url), tmp_path / "store")


def test_names_on_a_web_server_that_are_not_utf_8_stay_different(site: Site) -> None:
    for number in (b"\xe8", b"\xe9"):
        (Path(os.fsdecode(os.fsencode(site.folder) + b"/caf" + number + b".jpg"))).write_bytes(number)
    place = open_place(UrlPath.parse(site.url))
    assert {place.read(entry.path, 9) for entry in place.entries} == {b"\xe8", b"\xe9"}


def test_missing_places_are_refused_and_keys_are_not_printed(bucket: Bucket, site: Site, tmp_path: Path) -> None:
    closed = "http://user:secret@127.0.0.1:1/?key=secret"
    places = [f"{bucket.url}/missing", "s3://no-such-bucket/a", f"{site.url}/a.zip?key=secret", closed]
    for place in (*places, str(tmp_path / "missing.zip")):
        found = run_command("extract.__main__", "--images", place, "--store", tmp_path / "store", "--weights", "random")
        assert (found.status in (1, 2), "secret" in found.err, "Traceback" in found.err) == (True, False, False), place
    assert not (tmp_path / "store").exists()


def test_labels_are_read_from_a_url(site: Site, shared_pictures: Path, tmp_path: Path) -> None:
    paths = read_tree(shared_pictures)
    rows = [f"{path},{'tabby' if 'cats' in path else 'poodle'}" for path in paths]
    (site.folder / "labels.csv").write_text("\n".join(["path,label", *rows]))
    labels = UrlPath.parse(f"{site.url}/labels.csv?key=secret")
    assert extract(shared_pictures, tmp_path / "store", labels=labels).computed == 16
    store = FeatureStore(tmp_path / "store")
    assert {example.label for example in store.examples} == {"tabby", "poodle"}
    assert store.contents.labels.table == "labels.csv"
