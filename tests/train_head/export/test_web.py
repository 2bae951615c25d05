"""The web format without npm and Node.js: the files of the page, and what is missing."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from base.errors import HeadstartError, UsageError
from tests.errors import raises
from train_head.export.config import Dtype, Format
from train_head.export.formats import FORMATS, parse_formats, web

pytestmark = pytest.mark.unit


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty folder for downloads, and a PATH on which there is only an empty node."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "node").touch(0o755)
    return tmp_path / "cache"


def test_names_of_the_format_are_those_of_page_runtime_and_model() -> None:
    page = {entry.name for entry in (files("train_head.export") / "page").iterdir()}
    expected = {**dict.fromkeys({*page, "model.tflite", "model.json"}), "runtime": dict.fromkeys(web.RUNTIME)}
    assert FORMATS[Format.WEB].names == {"web": expected}


def test_parse_formats_without_node_is_a_usage_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with raises(UsageError, got="none"):
        parse_formats("web", Dtype.FLOAT32)


def test_parse_formats_without_npm_names_the_package_and_the_folder_for_it(cache: Path) -> None:
    with raises(HeadstartError, where="@litertjs/core@2.5.3", got="none") as caught:
        parse_formats("web", Dtype.FLOAT32)
    assert "litertjs-core-2.5.3.tgz" in caught.value.advice
    assert str(cache) in caught.value.advice


def test_parse_formats_with_another_package_in_the_cache_is_refused(cache: Path) -> None:
    cache.mkdir()
    (cache / "litertjs-core-2.5.3.tgz").write_bytes(b"another")
    with raises(HeadstartError, where=cache / "litertjs-core-2.5.3.tgz"):
        parse_formats("web", Dtype.FLOAT32)
