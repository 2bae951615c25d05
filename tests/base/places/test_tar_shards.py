"""Patterns of shards, and names that are no patterns although they have brackets or braces."""

from __future__ import annotations

from pathlib import Path

import pytest

from base.places.tar_shards import list_shards, name_shards

pytestmark = pytest.mark.unit


def test_list_shards_of_a_name_that_exists_takes_it_literally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("photos[1].tar", "photos1.tar", "data[v1]/a{1,2}/x.tar", "datav/a1/x.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for folder in ("", f"{tmp_path.as_posix()}/"):
        assert list_shards(f"{folder}photos[1].tar") == [f"{folder}photos[1].tar"]
        assert list_shards(f"{folder}data[v1]/a{{1,2}}/*.tar") == [f"{folder}data[v1]/a{{1,2}}/x.tar"]
        assert list_shards(f"{folder}photos{{1,[[]1]}}.tar") == [f"{folder}photos1.tar", f"{folder}photos[1].tar"]


@pytest.mark.parametrize("suffix", [".tar", ".tgz", ".tar.gz", ".TAR"])
def test_name_shards_gives_a_folder_for_each_split_and_number(suffix: str) -> None:
    places = [f"/data/{name}{suffix}" for name in ("train-000", "train-001", "test.target-0")]
    assert name_shards(places) == ["train/000/", "train/001/", "test.target/0/"]
