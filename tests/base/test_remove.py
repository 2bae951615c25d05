"""Remove a folder in one step, also after an interruption."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from base.errors import HeadstartError
from base.remove import list_abandoned, remove_abandoned, remove_folder
from tests.base.test_replace import Killed, fill, kill_after, list_hidden, make_target, read, replace
from tests.errors import raises


@pytest.mark.unit
def test_remove_folder_killed_at_any_change_keeps_it_or_leaves_a_staging_folder(tmp_path: Path) -> None:
    for number in range(20):
        place = tmp_path / str(number)
        replace(out := place / "out", "old")
        with pytest.MonkeyPatch.context() as patch:
            left = kill_after(patch, number)
            with suppress(Killed):
                remove_folder(make_target(out))
        if left[0] >= 0:
            break
        assert not out.exists() or read(out) == {"a.txt": "old", "b.txt": "old"}
        for container, target in list_abandoned(place).items():
            assert target == out
            remove_abandoned(container)
        assert list_abandoned(place) == {}
        remove_folder(make_target(out))
        assert list_hidden(place) == []
        assert not out.exists()
    assert number > 0


@pytest.mark.unit
def test_remove_folder_in_a_read_only_folder_is_an_error_and_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "out", "old")
    # Root, who may run the tests, can write to all folders.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with raises(HeadstartError, where=tmp_path / "out"):
        remove_folder(make_target(tmp_path / "out"))
    assert read(tmp_path / "out") == {"a.txt": "old", "b.txt": "old"}
    assert list_hidden(tmp_path / "out") == []


@pytest.mark.unit
def test_remove_folder_with_a_file_that_appears_in_the_meantime_is_an_error_and_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(out := tmp_path / "out", "old")

    def check(target: object) -> None:
        (out / "thesis.txt").write_text("mine")

    monkeypatch.setattr("base.remove.check_removable", check)
    with raises(HeadstartError, where=out):
        remove_folder(make_target(out))
    assert read(out) == {"a.txt": "old", "b.txt": "old", "thesis.txt": "mine"}
    assert list_hidden(tmp_path) == []
