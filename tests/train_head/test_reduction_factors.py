"""Kept factors and directions: what was written, byte for byte, or nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from features.console import Console
from features.durable import hash_file
from tests.train_head.made import FINGERPRINT, hash_text
from train_head.reduction.factors import Directions, Factors, keep, load, make_key

KEY, OTHER_KEY, THIRD_KEY = (make_key(FINGERPRINT, [hash_text("a")], [hash_text("b")], rank) for rank in (3, 4, 5))


def draw_factors(seed: int = 0) -> Factors:
    rng = np.random.default_rng(seed)
    return Factors(*(rng.normal(size=shape).astype(np.float32) for shape in ((7, 3), (4, 3), (3,))))


def draw_directions() -> Directions:
    return Directions(np.random.default_rng(9).normal(size=(48, 3)).astype(np.float32))


def assert_same(mine: Factors | Directions | None, theirs: Factors | Directions) -> None:
    assert type(mine) is type(theirs)
    for field in fields(theirs):
        found, expected = getattr(mine, field.name), getattr(theirs, field.name)
        assert found.dtype == expected.dtype == np.float32
        np.testing.assert_array_equal(found, expected, err_msg=field.name)


def find_file(folder: Path, key: str = KEY) -> Path:
    """The only file that is kept under a key."""
    (path,) = folder.glob(f"*{key[:32]}*")
    return path


@pytest.mark.parametrize("made", [draw_factors(), draw_directions()])
def test_keep_then_load_gives_equal_arrays_and_one_file(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str], made: Factors | Directions
) -> None:
    folder = tmp_path / "derived"
    keep(folder, KEY, made)
    kind = "factors" if isinstance(made, Factors) else "directions"
    assert [path.name for path in folder.iterdir()] == [f"{kind}-{KEY[:32]}-{hash_file(find_file(folder))}.npz"]
    loaded = load(folder, KEY, Factors, quiet) if kind == "factors" else load(folder, KEY, Directions, quiet)
    assert_same(loaded, made)
    assert capsys.readouterr().err == ""


def test_keep_factors_and_directions_of_a_key_tells_them_apart(tmp_path: Path, quiet: Console) -> None:
    keep(tmp_path, KEY, draw_directions())
    assert load(tmp_path, KEY, Factors, quiet) is None
    keep(tmp_path, KEY, draw_factors())
    assert_same(load(tmp_path, KEY, Factors, quiet), draw_factors())
    assert_same(load(tmp_path, KEY, Directions, quiet), draw_directions())


def test_keep_twice_leaves_one_file(tmp_path: Path, quiet: Console) -> None:
    for _ in range(2):
        keep(tmp_path, KEY, draw_factors())
    assert len(list(tmp_path.iterdir())) == 1
    assert_same(load(tmp_path, KEY, Factors, quiet), draw_factors())


def test_load_of_another_key_finds_nothing_and_leaves_the_file(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path, KEY, draw_factors())
    assert load(tmp_path, OTHER_KEY, Factors, quiet) is None
    assert load(tmp_path / "missing", KEY, Factors, quiet) is None
    assert find_file(tmp_path).is_file()
    assert capsys.readouterr().err == ""


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty])
def test_load_of_damaged_factors_says_so_and_removes_them(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    keep(tmp_path, KEY, draw_factors())
    path = find_file(tmp_path)
    expected = hash_file(path)
    damage(path)
    found = hash_file(path)
    assert load(tmp_path, KEY, Factors, quiet) is None
    assert capsys.readouterr().err == (
        f"warning: {path}: expected factors with SHA-256 {expected[:12]}…, got another file, {found[:12]}…. "
        "They are made again\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_load_with_a_damaged_and_a_sound_file_of_a_key_takes_the_sound_one(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path, KEY, draw_factors())
    sound = find_file(tmp_path)
    damaged = tmp_path / f"factors-{KEY[:32]}-{'0' * 64}.npz"
    damaged.write_bytes(sound.read_bytes())
    assert_same(load(tmp_path, KEY, Factors, quiet), draw_factors())
    assert [path.name for path in tmp_path.iterdir()] == [sound.name]
    assert capsys.readouterr().err.startswith(f"warning: {damaged}: expected factors with SHA-256 000000000000…")


def rename_soundly(path: Path, key: str) -> Path:
    """Gives a file the name that its bytes would have under a key."""
    return path.rename(path.with_name(f"factors-{key[:32]}-{hash_file(path)}.npz"))


def test_load_under_the_name_of_another_key_refuses_them(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path, OTHER_KEY, draw_factors())
    path = rename_soundly(find_file(tmp_path, OTHER_KEY), KEY)
    assert load(tmp_path, KEY, Factors, quiet) is None
    assert f"warning: {path}: " in (said := capsys.readouterr().err)
    assert "got those of other features. They are made again" in said
    assert list(tmp_path.iterdir()) == []


def test_load_of_damaged_directions_says_so_and_removes_them_alone(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path, KEY, draw_directions())
    truncate(find_file(tmp_path))
    keep(tmp_path, KEY, draw_factors())
    assert load(tmp_path, KEY, Directions, quiet) is None
    assert "expected directions with SHA-256" in capsys.readouterr().err
    assert find_file(tmp_path).name.startswith("factors-")


def test_load_from_a_file_without_arrays_refuses_it(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / "plain.npz"
    np.savez(plain, key=np.frombuffer(bytes.fromhex(KEY), np.uint8))
    path = rename_soundly(plain, KEY)
    assert load(tmp_path, KEY, Factors, quiet) is None
    assert capsys.readouterr().err.startswith(f"warning: {path}: ")
    assert list(tmp_path.iterdir()) == []


def set_age(path: Path, seconds: int) -> None:
    os.utime(path, (seconds, seconds))


def test_keep_beyond_the_cap_removes_the_longest_unused(
    tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(tmp_path, KEY, draw_factors())
    num_bytes = find_file(tmp_path).stat().st_size
    monkeypatch.setattr("train_head.reduction.factors.MAX_KEPT_BYTES", int(2.5 * num_bytes))
    keep(tmp_path, OTHER_KEY, draw_factors(1))
    set_age(find_file(tmp_path), 2_000_000)
    set_age(find_file(tmp_path, OTHER_KEY), 1_000_000)
    keep(tmp_path, THIRD_KEY, draw_factors(2))
    assert load(tmp_path, OTHER_KEY, Factors, quiet) is None
    assert_same(load(tmp_path, KEY, Factors, quiet), draw_factors())
    assert_same(load(tmp_path, THIRD_KEY, Factors, quiet), draw_factors(2))


def test_load_counts_as_use_when_room_is_made(tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path, KEY, draw_factors())
    num_bytes = find_file(tmp_path).stat().st_size
    monkeypatch.setattr("train_head.reduction.factors.MAX_KEPT_BYTES", int(2.5 * num_bytes))
    keep(tmp_path, OTHER_KEY, draw_factors(1))
    set_age(find_file(tmp_path), 1_000_000)
    set_age(find_file(tmp_path, OTHER_KEY), 2_000_000)
    load(tmp_path, KEY, Factors, quiet)
    keep(tmp_path, THIRD_KEY, draw_factors(2))
    assert load(tmp_path, OTHER_KEY, Factors, quiet) is None
    assert load(tmp_path, KEY, Factors, quiet) is not None
    assert load(tmp_path, THIRD_KEY, Factors, quiet) is not None


def test_keep_beyond_the_cap_leaves_other_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_head.reduction.factors.MAX_KEPT_BYTES", 0)
    (tmp_path / "notes.txt").write_text("of somebody else")
    keep(tmp_path, KEY, draw_factors())
    keep(tmp_path, OTHER_KEY, draw_factors())
    assert sorted(path.name for path in tmp_path.iterdir()) == [find_file(tmp_path, OTHER_KEY).name, "notes.txt"]


def test_keep_in_the_place_of_a_file_fails_and_leaves_it(tmp_path: Path, quiet: Console) -> None:
    folder = tmp_path / "derived"
    folder.write_text("a file")
    with pytest.raises(FileExistsError):
        keep(folder, KEY, draw_factors())
    assert load(folder, KEY, Factors, quiet) is None
    assert folder.read_text() == "a file"


def test_make_key_depends_on_all_that_factors_are_made_from() -> None:
    a, b, c = (hash_text(letter) for letter in "abc")
    key = make_key(FINGERPRINT, [a, b], [c], 2)
    assert make_key(FINGERPRINT, [a, b], [c], 2) == key
    others = [
        make_key(replace(FINGERPRINT, cut="mixed7"), [a, b], [c], 2),
        make_key(FINGERPRINT, [a], [b, c], 2),
        make_key(FINGERPRINT, [a, b, c], [], 2),
        make_key(FINGERPRINT, [a, c], [b], 2),
        make_key(FINGERPRINT, [a, b], [], 2),
        make_key(FINGERPRINT, [a, b], [c], 1),
    ]
    assert len({key, *others}) == 7
    assert all(len(each) == 64 and bytes.fromhex(each) for each in others)
