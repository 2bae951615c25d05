"""Pictures to classify in archives and at URLs."""

from __future__ import annotations

from pathlib import Path

import pytest

from base.errors import UsageError
from base.urls import UrlPath
from tests.archives import write_zip
from tests.errors import raises
from train_head.predict.list import list_pictures
from train_head.predict.sort import check_sort_folder

pytestmark = pytest.mark.unit


def test_list_pictures_reads_archives_and_accepts_urls_of_pictures(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"b/2.jpg": b"", "a.png": b"", "b/notes.txt": b""})
    url = "https://user:word@host/1.JPG?key=secret"
    paths, skipped = list_pictures([archive, UrlPath.parse(url)])
    # The texts keep the credentials, because the pictures are read by them.
    assert paths == [f"zip://a.png::{archive}", f"zip://b/2.jpg::{archive}", url]
    assert [str(file.image) for file in skipped] == [f"zip://b/notes.txt::{archive}"]
    with raises(UsageError, got="https://host/1.JPG"):
        check_sort_folder(str(tmp_path / "out"), paths[2:])
