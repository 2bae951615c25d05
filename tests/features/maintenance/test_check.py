"""`check` finds every damage, and repairs only what it is told to."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import CatalogDamagedError, FeatureStoreError
from features.catalog.catalog import CATALOG_NAME
from features.maintenance.check import find_problems, list_notes, quarantine_shards, rebuild_catalog
from features.schema import VIEW_NAME, Features, FeatureStatus
from features.shards.shard import SHARD_FOLDER
from features.store import Example, FeatureStore
from features.writer import FeatureWriter
from tests.features.stores import (
    fill_store,
    make_features,
    make_fingerprint,
    make_image,
    make_key,
    make_origin,
    make_writer,
)


def find(store: Path, *, read_data: bool = True, images: Path | None = None) -> list[str]:
    problems = find_problems(store, read_data=read_data, images=images, advance=lambda _: None)
    return [f"{problem.where}: {problem.what}" for problem in problems]


def flip(path: Path, position: int, mask: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(data)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    fill_store(tmp_path / "store", range(10))
    return tmp_path / "store"


def test_check_of_a_sound_store_finds_nothing(store: Path) -> None:
    assert find(store) == []
    assert find(store, read_data=False) == []
    assert list_notes(store) == []


def test_check_finds_every_flipped_byte_and_no_reader_is_fooled(store: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    sound = {example.path: feature for example, feature in read_all(store)}
    files = [store / CATALOG_NAME, *sorted((store / SHARD_FOLDER).iterdir())]
    for trial in range(60):
        broken = tmp_path / f"broken{trial}"
        shutil.copytree(store, broken)
        file = files[trial % len(files)]
        flip(broken / file.relative_to(store), rng.randrange(file.stat().st_size), rng.randrange(1, 256))
        is_found = find(broken) != []
        assert is_found or file.name == CATALOG_NAME
        try:
            read = read_all(broken)
        except FeatureStoreError:
            assert is_found
            continue
        # A byte of the catalog that no row uses: what is read is what was written.
        assert {example.path for example, _ in read} == set(sound)
        for example, feature in read:
            np.testing.assert_array_equal(feature, sound[example.path])
            assert example.label == example.path.split("/")[0]


def read_all(path: Path) -> list[tuple[Example, Features]]:
    opened = FeatureStore(path)
    return list(zip(opened.examples, opened.read(opened.examples), strict=True))


def delete(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def overwrite_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9] + b"overwrote")


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (delete, "is missing"),
        (truncate, "bytes instead of"),
        (overwrite_the_end, "another SHA-256"),
    ],
)
def test_check_names_the_bad_shard_and_quarantine_forgets_its_rows_alone(
    store: Path, damage: Callable[[Path], None], what: str
) -> None:
    shard = sorted((store / SHARD_FOLDER).iterdir())[0]
    damage(shard)
    (problem,) = find_problems(store, read_data=True, images=None, advance=lambda _: None)
    assert (problem.where, problem.shard) == (str(shard), 1)
    assert what in problem.what
    assert quarantine_shards(store, [problem]) == 4
    assert find(store) == []
    assert not shard.exists()
    with make_writer(store) as writer:
        assert [writer.holds(make_key(number)) for number in range(10)] == [False] * 4 + [True] * 6


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE images SET label = 'dogs' WHERE path = 'cats/00000.jpg'", "a row fails its checksum"),
        ("DELETE FROM images WHERE path = 'cats/00000.jpg'", "rows are missing or left over"),
        ("DELETE FROM meta WHERE key = 'origin'", "table meta: rows are missing or left over"),
    ],
)
def test_catalog_that_was_changed_by_hand_is_found_by_check_and_by_every_reader(
    store: Path, statement: str, what: str
) -> None:
    with sqlite3.connect(store / CATALOG_NAME) as db:
        db.execute(statement)
    db.close()
    (damage,) = find(store)
    assert what in damage
    with pytest.raises(CatalogDamagedError, match=what):
        FeatureStore(store)


def test_digests_of_an_earlier_version_are_removed_by_the_first_change(store: Path) -> None:
    (store / "SHA256SUMS").write_text("of an earlier version")
    assert find(store) == list_notes(store) == []
    with make_writer(store):
        pass
    assert not (store / "SHA256SUMS").exists()


def test_check_after_a_quarantine_tells_what_has_no_features(store: Path) -> None:
    shard = sorted((store / SHARD_FOLDER).iterdir())[0]
    truncate(shard)
    assert quarantine_shards(store, find_problems(store, read_data=False, images=None, advance=lambda _: None)) == 4
    assert list_notes(store) == ["4 images have no features; the next extraction computes them"]
    assert FeatureStore(store).num_pending == 4


def test_check_of_a_store_without_its_shards_folder_names_every_shard(store: Path) -> None:
    shutil.rmtree(store / SHARD_FOLDER)
    assert [problem.rsplit(": ", 1)[1] for problem in find(store)] == ["is missing"] * 3


def test_check_images_names_edited_and_missing_pictures(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    for number in range(10):
        path = folder / make_image(number).path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(str(number).encode())
    assert find(store, images=folder) == []
    (folder / "cats/00002.jpg").write_bytes(b"edited")
    (folder / "dogs/00003.jpg").unlink()
    edited, missing = find(store, images=folder)
    assert edited == f"{folder}/cats/00002.jpg: was edited since it was extracted"
    assert missing.startswith(f"{folder}/dogs/00003.jpg: cannot be read: No such file")


def test_check_tells_of_orphans_without_calling_them_problems(store: Path) -> None:
    orphan = sorted((store / SHARD_FOLDER).iterdir())[0]
    copy = orphan.with_name(orphan.name.replace("000001", "000008"))
    shutil.copy(orphan, copy)
    (store / SHARD_FOLDER / ".partial-x").write_bytes(b"")
    assert find(store) == []
    partial, adopted = list_notes(store)
    assert partial.startswith(f"{store / SHARD_FOLDER}/.partial-x: left by an interrupted write")
    assert adopted.startswith(f"{copy}: not in the catalog")


def test_rebuilt_catalog_has_every_feature_and_images_come_back_with_the_next_run(store: Path) -> None:
    before = FeatureStore(store).contents
    (store / CATALOG_NAME).write_bytes(b"overwritten")
    assert rebuild_catalog(store) == (10, [])
    after = FeatureStore(store).contents
    assert (after.fingerprint, after.origin) == (before.fingerprint, before.origin)
    assert (after.locations, after.shards) == (before.locations, before.shards)
    with make_writer(store) as writer:
        writer.update_images([make_image(number) for number in range(10)], [])
    opened = FeatureStore(store)
    by_number = sorted(opened.examples, key=lambda example: example.path[-9:])
    np.testing.assert_array_equal(opened.read(by_number), make_features(range(10)))
    assert (store / "quarantine" / CATALOG_NAME).read_bytes() == b"overwritten"


def run_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "features", "check", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )


def test_check_command_exits_0_for_a_sound_store_and_1_with_the_problems_named(store: Path) -> None:
    done = run_check(str(store), "--read-data", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"ok": True, "problems": [], "notes": []})
    shard = sorted((store / SHARD_FOLDER).iterdir())[1]
    flip(shard, 100)
    done = run_check(str(store), "--read-data", "--json")
    result = json.loads(done.stdout)
    assert (done.returncode, result["ok"]) == (1, False)
    assert [problem["where"] for problem in result["problems"]] == [str(shard)]
    assert run_check(str(store)).returncode == 0


def test_check_command_of_no_store_says_so(tmp_path: Path) -> None:
    done = run_check(str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert "expected a store's folder, got none there" in done.stderr


def test_check_of_a_damaged_view_goes_on_with_the_shards_and_quarantine_writes_it_anew(store: Path) -> None:
    shard = sorted((store / SHARD_FOLDER).iterdir())[1]
    flip(shard, 300)
    (store / VIEW_NAME).write_bytes(b"x")
    problems = find_problems(store, read_data=True, images=None, advance=lambda _: None)
    assert [problem.where for problem in problems] == [str(shard)]
    assert quarantine_shards(store, problems) == 4
    assert find(store) == []
    assert (store / VIEW_NAME).stat().st_size > 1


def test_check_while_an_extraction_begins_finds_nothing(store: Path) -> None:
    with make_writer(store) as writer:
        writer.update_images([make_image(50)], [])
        assert find(store, read_data=False) == []
    assert list_notes(store) == ["1 images have no features; the next extraction computes them"]


def test_check_of_shards_that_may_not_be_opened_quarantines_none(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: str | Path, *arguments: Any, **options: Any) -> int:
        if Path(path).parent.name == SHARD_FOLDER:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        problems = find_problems(store, read_data=True, images=None, advance=lambda _: None)
    assert len(problems) == 3
    assert quarantine_shards(store, problems) == 0
    assert find(store) == []


def test_rebuilt_catalog_takes_the_fingerprint_of_most_features(store: Path) -> None:
    first = sorted(path.name for path in (store / SHARD_FOLDER).iterdir())[0]
    for size in range(80, 1000):
        other = store.parent / f"other{size}"
        with FeatureWriter(other, make_fingerprint(image_size=size), make_origin()) as writer:
            writer.add_features([make_key(1)], make_features(range(1)), [FeatureStatus.OK])
            writer.commit()
        (shard,) = (other / SHARD_FOLDER).iterdir()
        if shard.name < first:
            break
    shutil.copy(shard, store / SHARD_FOLDER)
    num_features, (note,) = rebuild_catalog(store)
    assert num_features == 10
    assert shard.name in note
    assert FeatureStore(store).fingerprint == make_fingerprint()
    assert (store / "quarantine" / shard.name).exists()


def test_rebuilt_catalog_holds_both_of_two_shards_of_one_number(store: Path) -> None:
    fill_store(store.parent / "other", range(100, 104))
    (shard,) = (store.parent / "other" / SHARD_FOLDER).iterdir()
    shutil.copy(shard, store / SHARD_FOLDER)
    assert rebuild_catalog(store) == (14, [])
    assert [shard.number for shard in FeatureStore(store).shards] == [1, 2, 3, 4]
    assert find(store) == []


def test_check_of_a_pipe_among_the_pictures_does_not_wait(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "cats").mkdir(parents=True)
    os.mkfifo(folder / make_image(2).path)
    found = find(store, images=folder)
    assert any(line.startswith(f"{folder}/{make_image(2).path}: cannot be read") for line in found)
