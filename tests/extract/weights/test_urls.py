"""Weights files at URLs: downloaded once, compared with a digest, and never left incomplete."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from base import remote
from base.errors import HeadstartError
from base.remote import RemoteError
from base.terminal import Console
from extract.weights.find import WeightsName, find_weights
from tests.errors import raises
from tests.extract.weight_files import draw_small_layers, write_legacy_file
from tests.servers import Bucket


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Bytes of a small weights file."""
    return write_legacy_file(tmp_path_factory.mktemp("small") / "small.h5", draw_small_layers(188)).read_bytes()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty cache of downloads."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "RETRY_DELAYS_S", ())
    return tmp_path / "cache"


def list_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_weights_at_a_url_are_downloaded_once_and_again_when_they_change(
    bucket: Bucket, data: bytes, cache: Path, quiet: Console
) -> None:
    url = bucket.put("models/weights.h5", data)
    found = find_weights(url, quiet)
    assert (found.name, found.sha256) == (WeightsName.FILE, hashlib.sha256(data).hexdigest())
    assert found.path
    assert found.path.is_relative_to(cache)
    assert found.path.read_bytes() == data
    before = found.path.stat().st_ino
    assert find_weights(url, quiet) == found
    assert found.path.stat().st_ino == before

    with bucket.forbid():
        # A file with the required digest needs no connection.
        assert find_weights(url, quiet, found.sha256).path == found.path
        with pytest.raises(RemoteError):
            find_weights(url, quiet)
    bucket.put("models/weights.h5", data + b"\n")
    assert find_weights(url, quiet).sha256 == hashlib.sha256(data + b"\n").hexdigest()
    assert list_files(cache) == ["identity", "weights.h5"]


def test_file_that_is_no_weights_file_is_removed(bucket: Bucket, cache: Path, quiet: Console) -> None:
    url = bucket.put("weights.h5", b"<html>moved</html>")
    with raises(HeadstartError, where=url):
        find_weights(url, quiet)
    assert list_files(cache) == []


def test_weights_with_another_digest_or_without_a_file_are_refused(
    bucket: Bucket, data: bytes, cache: Path, quiet: Console
) -> None:
    url = bucket.put("weights.h5", data)
    with raises(HeadstartError, where=f"--weights {url}"):
        find_weights(url, quiet, "0" * 64)
    with pytest.raises(RemoteError):
        find_weights(f"{bucket.url}/other.h5", quiet)
