"""Locations: parse URLs, archives and shards, and remove credentials from texts."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from base.urls import UrlPath, are_shards, locate_pictures, parse_location, redact
from tests.archives import write_tar, write_zip

pytestmark = pytest.mark.unit

PLAIN = "s3://bucket/pictures"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (PLAIN, (PLAIN, "", "")),
        ("https://host/a.zip", ("https://host/a.zip", "zip", "")),
        ("https://host/a.tar.gz?key=1", ("https://host/a.tar.gz?key=1", "tar", "")),
        ("zip://train::s3://bucket/a.zip", ("s3://bucket/a.zip", "zip", "train")),
        ("zip://::https://host/get?id=5", ("https://host/get?id=5", "zip", "")),
        ("tar:///data/a.tar", ("/data/a.tar", "tar", "")),
    ],
)
def test_parse_of_a_url_or_archive_gives_its_parts_and_the_same_path_again(
    text: str, parts: tuple[str, str, str]
) -> None:
    path = UrlPath.parse(text)
    assert (path.place, path.archive, path.inner) == parts
    assert UrlPath.parse(path.full) == path == pickle.loads(pickle.dumps(path))


def test_path_of_a_picture_is_text_that_finds_it_again() -> None:
    for folder in (PLAIN, "s3://bucket/a.zip", "https://user:word@host/a?key=secret", "/data/s-{000..009}.tar"):
        path = UrlPath.parse(folder) / "cats" / "1.jpg"
        assert UrlPath.parse(path.full) == path
        assert (path.name, path.parent.name, path.inner) == ("1.jpg", "cats", "cats/1.jpg")


def test_texts_of_a_path_have_no_credentials() -> None:
    secret = UrlPath.parse("https://user:word@host/pictures/?X-Amz-Signature=secret") / "1.jpg"
    chained = UrlPath.parse("zip://a@b::https://user:word@host/a.zip?sig=secret")
    assert str(secret) == str(secret.resolve()) == "https://host/pictures/1.jpg"
    assert str(chained) == "zip://a@b::https://host/a.zip"
    assert "secret" not in repr([secret, chained])
    assert "secret" in secret.full
    assert str(UrlPath.parse("https://user:w@rd@host/a.zip")) == "https://host/a.zip"
    message = "403 for 'http://user@host/a.jpg?sig=secret', twice"
    assert redact(message) == "403 for 'http://host/a.jpg', twice"


def test_url_made_into_a_path_is_read_as_the_url() -> None:
    assert parse_location(Path("s3://bucket/pictures")) == UrlPath.parse(PLAIN)
    assert parse_location("pictures") == Path("pictures")


def test_locate_pictures_finds_archives_shards_and_folders(tmp_path: Path) -> None:
    archive, shards, mixed = write_zip(tmp_path / "a.zip", {}), tmp_path / "shards", tmp_path / "mixed"
    for folder in (shards, mixed):
        folder.mkdir()
        write_tar(folder / "s-000.tar", {})
        (folder / "s-000.json").touch()
    (mixed / "1.jpg").touch()
    pattern = f"{shards.as_posix()}/s-{{000..001}}.tar"

    assert locate_pictures(archive) == UrlPath(archive.as_posix(), "zip")
    assert locate_pictures(pattern) == UrlPath(pattern, "tar")
    assert locate_pictures(shards) == UrlPath(f"{shards.as_posix()}/*.tar", "tar")
    assert locate_pictures(mixed) == mixed
    assert locate_pictures(tmp_path / "missing.zip") == tmp_path / "missing.zip"
    assert not are_shards([".DS_Store", "notes.txt"])
