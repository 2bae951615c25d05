"""Pruning of a store: features of pictures that are gone, derived data, quarantine, partial files, old cut layers."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from base.errors import TargetLockedError, UsageError
from base.files import PARTIAL_PREFIX
from base.lock import hold_write_lock
from base.replace import hold_target
from base.target import Target
from base.terminal import Console
from features.derived import list_cached
from features.maintenance.command import StoreKind
from features.maintenance.leftovers import Leftover, free_leftovers, parse_kinds, unlink_files
from features.maintenance.needed import find_needed
from features.maintenance.prune import build_store_leftover, walk_folders
from features.maintenance.recover import move_to_quarantine
from features.maintenance.trim import trim_store
from features.options import EXAMPLES_FILE
from features.schema import DERIVED_FOLDER, QUARANTINE_FOLDER, FeatureStatus, ImageStatus
from features.shards.shard import SHARD_FOLDER
from features.store import FeatureStore
from tests.commands import CommandResult, run_command
from tests.errors import raises
from tests.features.stores import (
    add_features,
    add_views,
    copy_store,
    find_all_problems,
    make_features,
    make_image,
    make_key,
    make_writer,
    read_sorted,
)
from tests.files import read_files
from tests.systems import needs_posix

ROOT = Path(__file__).parents[3]
KEPT = [0, 1, 2, 9]
"""Numbers of the pictures that `make_old_store` keeps; its shards have the pictures 0-3, 4-7 and 8-9."""


def make_old_store(folder: Path, gone: tuple[int, ...] = (3, 4, 5, 6, 7, 8)) -> Path:
    """Create a store of ten pictures in three shards, some of which are gone."""
    copy_store(folder, range(10))
    with make_writer(folder) as writer:
        writer.update_images([], [make_image(number).path for number in gone])
    return folder


def prune(store: Path, *options: str) -> CommandResult:
    return run_command("features.__main__", "prune", store, "--json", *options)


def list_kinds(result: CommandResult) -> dict[str, int]:
    return {each["kind"]: each["bytes"] for each in result.json["leftovers"]}


def measure(folder: Path) -> int:
    return sum(map(len, read_files(folder).values()))


def write_examples(run: Path, numbers: list[int]) -> None:
    run.mkdir(parents=True)
    rows = [f"train,cats,{make_key(number).content_hash.hex()},cats/\udce9{number}.jpg,x" for number in numbers]
    text = "\n".join(["side,label,content_hash,path,shard", *rows])
    (run / EXAMPLES_FILE).write_text(text, errors="surrogateescape")


@pytest.mark.unit
def test_prune_lists_the_bytes_and_changes_nothing(tmp_path: Path) -> None:
    store = make_old_store(tmp_path / "store")
    before = read_files(store)
    result = prune(store)
    assert (result.status, result.json["removed"], list(list_kinds(result))) == (0, False, [StoreKind.FEATURES])
    assert result.json["bytes"] > 0
    assert read_files(store) == before


@pytest.mark.unit
def test_prune_frees_the_listed_bytes_and_keeps_the_other_features(tmp_path: Path) -> None:
    store = make_old_store(tmp_path / "store")
    before = measure(store / SHARD_FOLDER)
    result = prune(store, "--confirm")
    assert before - measure(store / SHARD_FOLDER) == result.json["bytes"] > 0
    opened = FeatureStore(store)
    assert (opened.num_features, len(opened.shards)) == (len(KEPT), 2)
    np.testing.assert_array_equal(read_sorted(opened).view(np.uint16), make_features(KEPT).view(np.uint16))
    assert find_all_problems(store) == []
    assert prune(store).json["leftovers"] == []


@pytest.mark.unit
def test_prune_keeps_views_and_statuses(tmp_path: Path) -> None:
    store = copy_store(tmp_path / "store", range(4))
    add_views(store, range(4), range(1, 3))
    with make_writer(store) as writer:
        add_features(writer, [10, 11], [FeatureStatus.OVERFLOW, FeatureStatus.OK])
        writer.update_images([make_image(10)], [make_image(number).path for number in (0, 2)])
        writer.commit()
    before = {key: place.status for key, place in FeatureStore(store).contents.locations.items()}
    prune(store, "--confirm")
    found = FeatureStore(store)
    kept = {make_key(number).content_hash for number in (1, 3, 10)}
    assert {key: place.status for key, place in found.contents.locations.items()} == {
        key: status for key, status in before.items() if key.content_hash in kept
    }
    views = [view for example in found.examples for view in found.list_views(example, 3)]
    expected = [make_features([number + 1000 * view]) for number in (1, 3) for view in range(3)]
    order = sorted(views, key=lambda view: (int(view.path[-9:-4]), view.view))
    np.testing.assert_array_equal(found.read(order), np.concatenate(expected))


@pytest.mark.unit
def test_prune_keeps_features_of_runs_beside_the_store(tmp_path: Path) -> None:
    store = make_old_store(tmp_path / "store")
    write_examples(tmp_path / "sweep" / "trials" / "one", [3, 8])
    assert find_needed([tmp_path / "sweep/trials/one"]) == {make_key(number).content_hash for number in (3, 8)}
    prune(store, "--confirm")
    found = {key.content_hash for key in FeatureStore(store).contents.locations}
    assert found == {make_key(number).content_hash for number in [*KEPT, 3, 8]}


@pytest.mark.unit
def test_prune_keeps_features_of_runs_that_are_linked_hidden_or_deep(tmp_path: Path) -> None:
    store = make_old_store(tmp_path / "work" / "store")
    write_examples(tmp_path / "work" / ".runs" / "hidden", [3])
    write_examples(tmp_path / "work" / "a/b/c/d/e/f/g/h", [4])
    write_examples(tmp_path / "elsewhere" / "run", [8])
    (tmp_path / "work" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "work", target_is_directory=True)
    prune(store, "--confirm")
    found = {key.content_hash for key in FeatureStore(store).contents.locations}
    assert found == {make_key(number).content_hash for number in [*KEPT, 3, 4, 8]}


@pytest.mark.unit
def test_prune_keeps_features_of_runs_beside_the_folder_of_cut_layers(tmp_path: Path) -> None:
    store = make_old_store(tmp_path / "store" / "mixed7")
    write_examples(tmp_path / "run", [3, 8])
    prune(store, "--confirm")
    found = {key.content_hash for key in FeatureStore(store).contents.locations}
    assert found == {make_key(number).content_hash for number in [*KEPT, 3, 8]}


@pytest.mark.unit
def test_prune_linked_store_keeps_features_of_runs_beside_the_link(tmp_path: Path) -> None:
    store = make_old_store(tmp_path / "disk" / "store")
    write_examples(tmp_path / "work" / "run", [3, 8])
    (tmp_path / "work" / "store").symlink_to(store, target_is_directory=True)
    prune(tmp_path / "work" / "store", "--confirm")
    found = {key.content_hash for key in FeatureStore(store).contents.locations}
    assert found == {make_key(number).content_hash for number in [*KEPT, 3, 8]}


@pytest.mark.unit
def test_prune_beside_a_running_command_keeps_all_features(tmp_path: Path) -> None:
    store = make_old_store(tmp_path / "store")
    with hold_target(Target(tmp_path / "run", {}, lambda _: None, "--run")):
        result = prune(store, "--confirm")
        assert (result.status, result.json["leftovers"]) == (0, [])
        # The command may have started after the features were listed.
        with raises(TargetLockedError, where=tmp_path):
            trim_store(store, partial(find_needed, [tmp_path]))
    assert FeatureStore(store).num_features == 10


@pytest.mark.unit
def test_prune_with_a_folder_that_cannot_be_read_keeps_all_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_old_store(tmp_path / "store")
    (closed := tmp_path / "closed").mkdir()
    scan = os.scandir

    def refuse(path: Path) -> Iterator[os.DirEntry[str]]:
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    # Root, who may run the tests, can read all folders.
    monkeypatch.setattr(os, "scandir", refuse)
    assert prune(store).json["leftovers"] == []
    assert list(walk_folders(tmp_path)) == [tmp_path, store]
    with pytest.raises(PermissionError):
        list(walk_folders(closed))


@pytest.mark.unit
@pytest.mark.parametrize("state", ["rebuilt", "pending"])
def test_prune_before_all_pictures_are_read_keeps_all_features(tmp_path: Path, state: str) -> None:
    store = make_old_store(tmp_path / "store")
    if state == "rebuilt":
        run_command("features.__main__", "check", store, "--rebuild-catalog")
    else:
        with make_writer(store) as writer:
            writer.update_images([make_image(3)._replace(status=ImageStatus.PENDING, content_hash=None)], [])
    assert StoreKind.FEATURES not in list_kinds(prune(store, "--confirm"))
    # The pictures may have been added after the features were listed.
    assert trim_store(store, set) == 0
    assert FeatureStore(store).num_features == 10


@pytest.mark.unit
@pytest.mark.parametrize("link", [os.link, lambda path, target: path.rename(target) and path.symlink_to(target)])
def test_prune_shard_that_is_linked_is_kept(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    store = make_old_store(tmp_path / "store")
    for shard in sorted((store / SHARD_FOLDER).iterdir()):
        link(shard, tmp_path / shard.name)
    assert prune(store, "--confirm").json["bytes"] == 0
    assert FeatureStore(store).num_features == 10


@pytest.mark.unit
def test_prune_removes_own_files_and_keeps_foreign_ones(tmp_path: Path) -> None:
    store, other = copy_store(tmp_path / "store", range(4)), copy_store(tmp_path / "other", range(4), cut="mixed5")
    cached = store / DERIVED_FOLDER / f"factors-{'0' * 32}-{'1' * 64}.npz"
    partial = store / SHARD_FOLDER / f"{PARTIAL_PREFIX}000009-{'2' * 64}.h5"
    foreign = [store / DERIVED_FOLDER / "notes.txt", store / QUARANTINE_FOLDER / "thesis.tex"]
    for path in (cached, partial, *foreign):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
    (store / DERIVED_FOLDER / f"rows-{'0' * 32}-{'1' * 64}.npy").symlink_to(foreign[0])
    damaged = store / SHARD_FOLDER / f"000007-{'3' * 64}.h5"
    damaged.write_bytes(bytes(100))
    move_to_quarantine(store, damaged)
    intact = next((other / SHARD_FOLDER).iterdir())
    misplaced = intact.rename(store / SHARD_FOLDER / intact.name)
    foreign.append(move_to_quarantine(store, misplaced))
    newer = store / SHARD_FOLDER / f"000008-{hashlib.sha256(b'newer').hexdigest()}.h5"
    newer.write_bytes(b"newer")
    foreign.append(move_to_quarantine(store, newer))
    before = measure(store)
    result = prune(store, "--confirm")
    assert list_kinds(result) == dict.fromkeys((StoreKind.DERIVED, StoreKind.PARTIAL, StoreKind.QUARANTINE), 100)
    assert before - measure(store) == result.json["bytes"] == 300
    assert all(path.is_file() for path in foreign)
    assert list_cached(store / DERIVED_FOLDER) == []
    assert (store / DERIVED_FOLDER / f"rows-{'0' * 32}-{'1' * 64}.npy").is_symlink()


@pytest.mark.unit
def test_prune_only_given_kinds_are_removed(tmp_path: Path) -> None:
    store = make_old_store(tmp_path / "store")
    cached = store / DERIVED_FOLDER / f"pooled-{'0' * 32}-{'1' * 64}.npz"
    cached.parent.mkdir()
    cached.write_bytes(bytes(10))
    assert list_kinds(prune(store, "--confirm", "--only", "derived")) == {StoreKind.DERIVED: 10}
    assert FeatureStore(store).num_features == 10
    with raises(UsageError, where="--only", got="'shards'"):
        parse_kinds("derived, shards", StoreKind)


@pytest.mark.unit
def test_prune_store_that_is_written_is_kept_with_status_1(tmp_path: Path) -> None:
    store = make_old_store(tmp_path / "store")
    with hold_write_lock(store):
        result = prune(store, "--confirm")
    assert (result.status, result.json["leftovers"]) == (1, [])
    assert FeatureStore(store).num_features == 10


@pytest.mark.unit
def test_free_leftovers_that_another_command_removes_count_nothing(tmp_path: Path) -> None:
    stores = [copy_store(tmp_path / name, range(4)) for name in ("one", "two")]
    found = [build_store_leftover(store, StoreKind.CUTS, "") for store in stores]

    def remove_and_fail() -> None:
        found[1].remove()
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(stores[1]))

    given = [found[0], found[0], replace(found[1], remove=remove_and_fail)]
    result = free_leftovers(tmp_path, given, Console(), confirm=True, command="")
    assert [each["path"] for each in result["leftovers"]] == [str(stores[0])]
    assert unlink_files([stores[0] / "catalog.sqlite"]) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.unit
def test_free_leftovers_while_another_command_removes_some_is_an_error(tmp_path: Path) -> None:
    def free_again() -> None:
        with raises(TargetLockedError, where=tmp_path):
            free_leftovers(tmp_path, [found], Console(), confirm=True, command="")

    found = Leftover(StoreKind.CUTS, tmp_path, 7, "", free_again)
    assert free_leftovers(tmp_path, [found], Console(), confirm=True, command="")["bytes"] == 7
    assert list(tmp_path.parent.glob(".*.prune")) == []


@pytest.mark.unit
def test_prune_drops_the_store_of_a_cut_layer(tmp_path: Path) -> None:
    for cut in ("mixed5", "mixed7"):
        copy_store(tmp_path / "store" / cut, range(4), cut=cut)
    other, before = read_files(tmp_path / "store" / "mixed7"), measure(tmp_path / "store" / "mixed5")
    result = prune(tmp_path / "store", "--drop-cut", "mixed5", "--confirm")
    assert (result.status, [each["kind"] for each in result.json["leftovers"]]) == (0, ["cuts"])
    assert result.json["bytes"] >= before
    assert not (tmp_path / "store" / "mixed5").exists()
    assert read_files(tmp_path / "store" / "mixed7") == other
    assert prune(tmp_path / "store", "--drop-cut", "mixed5").status == 2


@pytest.mark.unit
@pytest.mark.parametrize("place", ["", SHARD_FOLDER, DERIVED_FOLDER])
def test_prune_cut_layer_with_a_foreign_file_is_an_error(tmp_path: Path, place: str) -> None:
    for cut in ("mixed5", "mixed7"):
        copy_store(tmp_path / "store" / cut, range(4), cut=cut)
    (tmp_path / "store" / "mixed5" / place).mkdir(exist_ok=True)
    (tmp_path / "store" / "mixed5" / place / "notes.txt").write_text("mine")
    before = read_files(tmp_path)
    result = prune(tmp_path / "store", "--drop-cut", "mixed5", "--confirm")
    assert (result.status, Path(result.json["where"]).name) == (1, "notes.txt")
    assert read_files(tmp_path) == before


@pytest.mark.unit
def test_prune_missing_store_is_an_error(tmp_path: Path) -> None:
    assert prune(tmp_path).json["type"] == "StoreMissingError"


KILL = """
import os, signal, sys
from pathlib import Path
from unittest import mock
from base.terminal import Console
from features.maintenance import trim

def kill_at(name, call):
    found, calls = getattr(*name), []
    def kill(*arguments, **options):
        calls.append(arguments)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return found(*arguments, **options)
    return mock.patch.object(*name, kill)

STEPS = [(trim, "write_shard", 1), (trim.FeatureWriter, "transaction", 1), (trim.FeatureWriter, "transaction", 2),
         (Path, "unlink", 2), (Path, "unlink", 3)]
for number, (holder, name, call) in enumerate(STEPS):
    child = os.fork()
    if not child:
        with kill_at((holder, name), call):
            trim.trim_store(Path(sys.argv[1], str(number)), set)
        os._exit(0)
    print(-os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_posix
def test_prune_killed_between_steps_is_completed_by_the_next_one(tmp_path: Path) -> None:
    stores = [make_old_store(tmp_path / str(number)) for number in range(5)]
    command = [sys.executable, "-c", KILL, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert [int(line) for line in done.stdout.split()] == [signal.SIGKILL] * len(stores)
    for store in stores:
        np.testing.assert_array_equal(read_sorted(FeatureStore(store)), make_features(KEPT))
        with make_writer(store) as writer:
            # What had been removed from the catalog does not return.
            assert (writer.num_stored == 10) == (store.name == "1")
        prune(store, "--confirm")
        assert prune(store).json["leftovers"] == []
        assert FeatureStore(store).num_features == len(KEPT)
        assert {path.name for path in (store / SHARD_FOLDER).iterdir()} == {
            shard.name for shard in FeatureStore(store).shards
        }
        assert find_all_problems(store) == []
