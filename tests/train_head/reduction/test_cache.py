"""Kept factors and directions: what was written, byte for byte, or nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.files import hash_file
from base.terminal import Console
from features.store import FeatureStore
from tests.train_head.synthetic import FINGERPRINT, draw_features, hash_text, list_paths, make_store
from train_head.reduction.cache import Directions, Factors, get, make_key, put

KEY, OTHER_KEY, THIRD_KEY = (hash_text(name).hex() for name in ("key", "other", "third"))


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
def test_put_then_get_gives_equal_arrays_and_one_file(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str], made: Factors | Directions
) -> None:
    folder = tmp_path / "derived"
    put(folder, KEY, made)
    kind = "factors" if isinstance(made, Factors) else "directions"
    assert [path.name for path in folder.iterdir()] == [f"{kind}-{KEY[:32]}-{hash_file(find_file(folder))}.npz"]
    loaded = get(folder, KEY, Factors, quiet) if kind == "factors" else get(folder, KEY, Directions, quiet)
    assert_same(loaded, made)
    assert capsys.readouterr().err == ""


def test_put_factors_and_directions_of_a_key_tells_them_apart(tmp_path: Path, quiet: Console) -> None:
    put(tmp_path, KEY, draw_directions())
    assert get(tmp_path, KEY, Factors, quiet) is None
    put(tmp_path, KEY, draw_factors())
    assert_same(get(tmp_path, KEY, Factors, quiet), draw_factors())
    assert_same(get(tmp_path, KEY, Directions, quiet), draw_directions())


def test_put_twice_leaves_one_file(tmp_path: Path, quiet: Console) -> None:
    for _ in range(2):
        put(tmp_path, KEY, draw_factors())
    assert len(list(tmp_path.iterdir())) == 1
    assert_same(get(tmp_path, KEY, Factors, quiet), draw_factors())


def test_get_of_another_key_finds_nothing_and_leaves_the_file(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, KEY, draw_factors())
    assert get(tmp_path, OTHER_KEY, Factors, quiet) is None
    assert get(tmp_path / "missing", KEY, Factors, quiet) is None
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
def test_get_of_damaged_factors_says_so_and_removes_them(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    put(tmp_path, KEY, draw_factors())
    path = find_file(tmp_path)
    expected = hash_file(path)
    damage(path)
    found = hash_file(path)
    assert get(tmp_path, KEY, Factors, quiet) is None
    assert capsys.readouterr().err == (
        f"warning: {path}: expected factors with SHA-256 {expected[:12]}…, got another file, {found[:12]}…. "
        "They are made again\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_get_with_a_damaged_and_a_sound_file_of_a_key_takes_the_sound_one(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, KEY, draw_factors())
    sound = find_file(tmp_path)
    damaged = tmp_path / f"factors-{KEY[:32]}-{'0' * 64}.npz"
    damaged.write_bytes(sound.read_bytes())
    assert_same(get(tmp_path, KEY, Factors, quiet), draw_factors())
    assert [path.name for path in tmp_path.iterdir()] == [sound.name]
    assert capsys.readouterr().err.startswith(f"warning: {damaged}: expected factors with SHA-256 000000000000…")


def rename_soundly(path: Path, key: str) -> Path:
    """Gives a file the name that its bytes would have under a key."""
    return path.rename(path.with_name(f"factors-{key[:32]}-{hash_file(path)}.npz"))


def test_get_under_the_name_of_another_key_refuses_them(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, OTHER_KEY, draw_factors())
    path = rename_soundly(find_file(tmp_path, OTHER_KEY), KEY)
    assert get(tmp_path, KEY, Factors, quiet) is None
    assert f"warning: {path}: " in (said := capsys.readouterr().err)
    assert "got those of other features. They are made again" in said
    assert list(tmp_path.iterdir()) == []


def test_get_of_damaged_directions_says_so_and_removes_them_alone(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, KEY, draw_directions())
    truncate(find_file(tmp_path))
    put(tmp_path, KEY, draw_factors())
    assert get(tmp_path, KEY, Directions, quiet) is None
    assert "expected directions with SHA-256" in capsys.readouterr().err
    assert find_file(tmp_path).name.startswith("factors-")


def test_get_from_a_file_without_arrays_refuses_it(
    tmp_path: Path, quiet: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / "plain.npz"
    np.savez(plain, key=np.frombuffer(bytes.fromhex(KEY), np.uint8))
    path = rename_soundly(plain, KEY)
    assert get(tmp_path, KEY, Factors, quiet) is None
    assert capsys.readouterr().err.startswith(f"warning: {path}: ")
    assert list(tmp_path.iterdir()) == []


def set_age(path: Path, seconds: int) -> None:
    os.utime(path, (seconds, seconds))


def test_put_beyond_the_cap_removes_the_longest_unused(
    tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, KEY, draw_factors())
    num_bytes = find_file(tmp_path).stat().st_size
    monkeypatch.setattr("train_head.reduction.cache.MAX_CACHE_BYTES", int(2.5 * num_bytes))
    put(tmp_path, OTHER_KEY, draw_factors(1))
    set_age(find_file(tmp_path), 2_000_000)
    set_age(find_file(tmp_path, OTHER_KEY), 1_000_000)
    put(tmp_path, THIRD_KEY, draw_factors(2))
    assert get(tmp_path, OTHER_KEY, Factors, quiet) is None
    assert_same(get(tmp_path, KEY, Factors, quiet), draw_factors())
    assert_same(get(tmp_path, THIRD_KEY, Factors, quiet), draw_factors(2))


def test_get_counts_as_use_when_room_is_made(tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, KEY, draw_factors())
    num_bytes = find_file(tmp_path).stat().st_size
    monkeypatch.setattr("train_head.reduction.cache.MAX_CACHE_BYTES", int(2.5 * num_bytes))
    put(tmp_path, OTHER_KEY, draw_factors(1))
    set_age(find_file(tmp_path), 1_000_000)
    set_age(find_file(tmp_path, OTHER_KEY), 2_000_000)
    get(tmp_path, KEY, Factors, quiet)
    put(tmp_path, THIRD_KEY, draw_factors(2))
    assert get(tmp_path, OTHER_KEY, Factors, quiet) is None
    assert get(tmp_path, KEY, Factors, quiet) is not None
    assert get(tmp_path, THIRD_KEY, Factors, quiet) is not None


def test_put_beyond_the_cap_leaves_other_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_head.reduction.cache.MAX_CACHE_BYTES", 0)
    (tmp_path / "notes.txt").write_text("of somebody else")
    put(tmp_path, KEY, draw_factors())
    put(tmp_path, OTHER_KEY, draw_factors())
    assert sorted(path.name for path in tmp_path.iterdir()) == [find_file(tmp_path, OTHER_KEY).name, "notes.txt"]


def test_put_in_the_place_of_a_file_fails_and_leaves_it(tmp_path: Path, quiet: Console) -> None:
    folder = tmp_path / "derived"
    folder.write_text("a file")
    with pytest.raises(FileExistsError):
        put(folder, KEY, draw_factors())
    assert get(folder, KEY, Factors, quiet) is None
    assert folder.read_text() == "a file"


def make_features(folder: Path, paths: Sequence[str], **options: Any) -> FeatureStore:
    return make_store(folder, paths, rows_per_shard=2, **options)


def test_make_key_depends_on_all_that_derived_files_are_made_from(tmp_path: Path) -> None:
    paths = list_paths({"train/cats": 4, "train/dogs": 4})
    store = make_features(tmp_path / "store", paths)
    a, b, c, *_ = store.examples
    key = make_key(store, [[a, b], [c]], 2)
    assert make_key(FeatureStore(store.path), [[a, b], [c]], 2) == key
    other = make_features(tmp_path / "other", paths, fingerprint=replace(FINGERPRINT, cut="mixed7"))
    others = [
        make_key(other, [[a, b], [c]], 2),
        make_key(store, [[a], [b, c]], 2),
        make_key(store, [[a, b, c], []], 2),
        make_key(store, [[a, c], [b]], 2),
        make_key(store, [[a, b], []], 2),
        make_key(store, [[a, b], [c._replace(view=1)]], 2),
        make_key(store, [[a, b], [c]], 1),
    ]
    assert len({key, *others}) == 8
    assert all(len(each) == 64 and bytes.fromhex(each) for each in others)


def test_make_key_of_the_same_pictures_with_other_features_is_another(tmp_path: Path) -> None:
    paths = list_paths({"train/cats": 4, "train/dogs": 4})
    features = draw_features(paths)
    first = make_features(tmp_path / "first", paths, features=features)
    same = make_features(tmp_path / "same", paths, features=features)
    # As extracted again under the same fingerprint, by libraries that the canary lets through.
    other = make_features(tmp_path / "other", paths, features=features * np.float16(1.001))
    keys = [make_key(store, [store.examples, []], 0) for store in (first, same, other)]
    assert keys[0] == keys[1] != keys[2]


def test_put_beyond_the_cap_removes_only_regular_files_of_its_own_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train_head.reduction.cache.MAX_CACHE_BYTES", 0)
    own = f"factors-{'0' * 32}-{'1' * 64}.npz"
    foreign = ["holiday-2019.npz", f"factors-{'0' * 32}-{'1' * 63}.npz", f"photos-{'0' * 32}-{'1' * 64}.npz"]
    elsewhere = tmp_path / "elsewhere.npz"
    folder = tmp_path / "derived"
    folder.mkdir()
    for path in (elsewhere, folder / own, *(folder / name for name in foreign)):
        path.write_bytes(b"x" * 1000)
    link = folder / f"means-{'0' * 32}-{'1' * 64}.npz"
    link.symlink_to(elsewhere)
    put(folder, KEY, draw_factors())
    left = {path.name for path in folder.iterdir()} - {find_file(folder).name}
    assert left == {*foreign, link.name}
    assert elsewhere.read_bytes() == b"x" * 1000


def test_put_behind_a_linked_folder_removes_nothing(
    tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train_head.reduction.cache.MAX_CACHE_BYTES", 0)
    mine = tmp_path / "mydata"
    mine.mkdir()
    names = ["holiday-2019.npz", f"factors-{KEY[:32]}-{'1' * 64}.npz", f".partial-factors-{KEY[:32]}-999999999"]
    for name in names:
        (mine / name).write_bytes(b"x")
        set_age(mine / name, 1)
    (tmp_path / "derived").symlink_to(mine)
    assert get(tmp_path / "derived", KEY, Factors, quiet) is None
    put(tmp_path / "derived", OTHER_KEY, draw_factors())
    assert {path.name for path in mine.iterdir()} >= set(names)


def test_put_removes_what_killed_processes_left_behind(tmp_path: Path) -> None:
    name = f".partial-factors-{KEY[:32]}"
    # This process is the parent of the next one: it runs, and may still write.
    old, running, foreign = tmp_path / f"{name}-999999999", tmp_path / f"{name}-{os.getppid()}", tmp_path / ".partial-a"
    for path in (old, running, foreign):
        path.write_bytes(b"x")
        set_age(path, 1)
    young = tmp_path / f"{name}-999999998"
    young.write_bytes(b"x")
    put(tmp_path, KEY, draw_factors())
    partial = {path.name for path in tmp_path.iterdir() if path.name.startswith(".")}
    assert partial == {running.name, foreign.name, young.name}
