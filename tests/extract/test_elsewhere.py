"""Extraction from archives, shards, a web server and S3: the same store as from a local folder."""

from __future__ import annotations

import http.server
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from base.remote import RemoteError
from base.urls import UrlPath
from features.schema import ImageStatus
from features.store import FeatureStore
from tests.archives import read_tree, write_tar, write_zip
from tests.extract.extraction import assert_equal_stores, extract
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


@pytest.fixture
def web_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """Folder, and the URL at which a web server lists it; the server sends whole files only."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "web"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def read_meta(store: Path, key: str) -> str:
    with closing(sqlite3.connect(store / "catalog.sqlite")) as catalog:
        (value,) = catalog.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return str(value)


def test_extract_from_a_bucket_gives_the_store_of_the_folder_and_follows_changes(
    uploaded: str, bucket: Bucket, shared_store: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    images: Any = UrlPath.parse(uploaded)
    assert extract(images, store).computed == 16
    assert_equal_stores(store, shared_store)
    assert FeatureStore(store).images_folder == uploaded
    repeated = extract(images, store)
    assert (repeated.computed, repeated.reused) == (0, 16)

    bucket.put("pictures/train/cats/000.jpg", encode(draw_picture("cats", 800), "JPEG"))
    assert extract(images, store).computed == 1
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
    assert extract(path, tmp_path / "store").computed == 0
