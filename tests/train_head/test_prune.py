"""Pruning below a folder: checkpoints, staging folders, earlier runs, stores and exported models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from base.errors import HeadstartError
from base.files import PARTIAL_PREFIX, hash_file
from base.replace import PLAN_NAME, hold_target, replace_folder
from base.target import Target
from base.terminal import Console
from features.schema import DERIVED_FOLDER
from features.shards.shard import SHARD_FOLDER
from features.store import FeatureStore
from features.store_writer import FeatureWriter
from tests.commands import CommandResult, run_command
from tests.files import read_files
from tests.train_head.synthetic import list_paths, make_small_card, make_store
from tests.train_head.training import make_config
from train_head.export.description import DESCRIPTION_FILE, ModelDescription, encode_description
from train_head.prune.find import find_earlier_runs
from train_head.runs.card import LABELS_FILE
from train_head.runs.read import Run
from train_head.runs.record import LOCAL_FILE, RUN_FILE, WITHOUT_DROPOUT
from train_head.solvers.checkpoint import CHECKPOINT_PREFIX
from train_head.train import train_head

GONE = ["train/cats/00.jpg", "train/dogs/01.jpg"]


@pytest.fixture(scope="module")
def _work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("prune") / "work"
    counts = {"train/cats": 12, "train/dogs": 11, "validation/cats": 4, "validation/dogs": 4}
    store = make_store(work / "data" / "store", list_paths(counts))
    train_head(make_config(store, work / "data" / "run"), Console())
    return work


@pytest.fixture
def work(_work: Path, tmp_path: Path) -> Path:
    """Copy of a folder with a store and a run, from whose store two training pictures are gone."""
    work = shutil.copytree(_work, tmp_path / "work")
    store = FeatureStore(work / "data" / "store")
    with FeatureWriter(store.path, store.fingerprint, store.origin) as writer:
        writer.update_images([], GONE)
    (work / "data" / "run" / LOCAL_FILE).write_text(json.dumps({"store": str(store.path), "images": ""}))
    return work


def prune(work: Path, *options: str) -> CommandResult:
    return run_command("train_head.prune.__main__", work, "--json", *options)


def list_leftovers(result: CommandResult) -> set[tuple[str, str]]:
    return {(each["kind"], Path(each["path"]).name) for each in result.json["leftovers"]}


def save_checkpoint(work: Path, name: str) -> Path:
    folder = work / "data" / f"{CHECKPOINT_PREFIX}{name}"
    folder.mkdir(parents=True)
    (folder / "fit-0.npz").write_bytes(bytes(1000))
    return folder


def describe(folder: Path) -> Target:
    return Target(folder, {"a": None}, lambda _: None, "--out")


def test_prune_keeps_a_run_exportable_and_its_features(work: Path) -> None:
    run = Run(work / "data" / "run")
    assert DERIVED_FOLDER in {name for _, name in list_leftovers(prune(work))}
    result = prune(work, "--confirm")
    assert list_leftovers(result) == {("derived", DERIVED_FOLDER)}
    store = run.open_store(str(work / "data" / "store"))
    assert {example.path for example in run.find_split(store).train} >= set(GONE)
    assert run.predict_proba(store.read(store.examples)).shape == (len(store.examples), 2)


def test_prune_without_the_run_frees_its_features(work: Path) -> None:
    shutil.rmtree(work / "data" / "run")
    store = work / "data" / "store"
    before = sum(path.stat().st_size for path in (store / SHARD_FOLDER).iterdir())
    result = prune(work, "--confirm", "--only", "features")
    assert before - sum(path.stat().st_size for path in (store / SHARD_FOLDER).iterdir()) == result.json["bytes"] > 0
    assert FeatureStore(store).num_features == 29


def test_prune_store_itself_keeps_the_features_of_the_run_beside_it(work: Path) -> None:
    prune(work / "data" / "store", "--confirm")
    assert FeatureStore(work / "data" / "store").num_features == 31


def test_prune_earlier_run_frees_the_features_that_only_it_needs(work: Path) -> None:
    store = FeatureStore(work / "data" / "store")
    train_head(make_config(store, work / "data" / "run"), Console())
    (archive,) = work.glob("data/run-*")
    (copied := work / "data" / "run-1").mkdir()
    shutil.copy(archive / RUN_FILE, copied)
    result = prune(work, "--confirm")
    assert list_leftovers(result) == {("runs", archive.name), ("derived", DERIVED_FOLDER), ("features", "store")}
    assert FeatureStore(store.path).num_features == 29
    assert not archive.exists()
    assert copied.exists()
    run = Run(work / "data" / "run")
    np.testing.assert_array_less(0, run.predict_proba(store.reopen().read(store.reopen().examples)))


def test_prune_earlier_run_that_cannot_be_removed_keeps_its_features(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FeatureStore(work / "data" / "store")
    train_head(make_config(store, work / "data" / "run"), Console())
    (archive,) = work.glob("data/run-*")

    def refuse(target: Target) -> None:
        raise HeadstartError(target.folder, "a folder that can be moved", "a busy one", "Wait")

    monkeypatch.setattr("train_head.prune.find.remove_folder", refuse)
    result = prune(work, "--confirm")
    assert result.status == 1
    assert {each["kind"]: each["bytes"] > 0 for each in result.json["leftovers"]} == {
        "derived": True,
        "features": False,
    }
    run = Run(archive)
    assert run.find_split(run.open_store(str(store.path)))


def test_prune_earlier_run_or_comparison_with_a_foreign_file_is_kept(work: Path) -> None:
    data = work / "data"
    for name in (f"run-2026-11-25-14032{number}" for number in range(2)):
        shutil.copytree(data / "run", data / name)
    for name in ("compare", "compare-2026-11-25-140327", "compare-2026-11-25-140328-2"):
        shutil.copytree(data / "run", data / name / WITHOUT_DROPOUT)
    for name in ("run-2026-11-25-140321", f"compare-2026-11-25-140328-2/{WITHOUT_DROPOUT}"):
        (data / name / "notes.txt").write_text("mine")
    shutil.copytree(data / "run", data / "other-2026-11-25-140320")
    removed = {("runs", "run-2026-11-25-140320"), ("runs", "compare-2026-11-25-140327")}
    assert list_leftovers(prune(work, "--only", "runs", "--confirm")) == removed
    assert len(list(data.glob("*-2026-*"))) == 3


def test_prune_earlier_run_that_another_process_has_removed_is_ignored(work: Path) -> None:
    data = work / "data"
    archive = shutil.copytree(data / "run", data / "run-2026-11-25-140320")
    (found,) = find_earlier_runs([archive])
    shutil.rmtree(archive)
    found.remove()
    assert {path.name for path in data.iterdir()} == {"run", "store"}


def test_prune_checkpoints_of_commands_that_are_running_are_kept(work: Path) -> None:
    running = [save_checkpoint(work, name) for name in ("one", f"compare-{WITHOUT_DROPOUT}")]
    ended = [save_checkpoint(work, name) for name in ("two", "compare-with-dropout-0.5-x", "three")]
    (ended[0] / "notes.txt").write_text("mine")
    linked = work / "data" / f"{CHECKPOINT_PREFIX}linked"
    linked.symlink_to(ended[2])
    with hold_target(describe(work / "data" / "one")), hold_target(describe(work / "data" / "compare")):
        result = prune(work, "--only", "checkpoints", "--confirm")
    assert result.json["bytes"] == 2000
    assert all((folder / "fit-0.npz").exists() for folder in running)
    assert [path.exists() for path in ended] == [True, True, False]
    assert read_files(ended[0]) == {"notes.txt": b"mine"}
    assert linked.is_symlink()


def test_prune_incomplete_results_are_removed(work: Path) -> None:
    class Killed(BaseException):
        pass

    def stop(folder: Path, fill: Callable[[Path], object]) -> None:
        with replace_folder(describe(folder)) as replacement:
            fill(replacement.staging)
            # As after a kill, nothing is removed.
            shutil.copytree(replacement.staging.parent, folder.with_name(".kept"))
        folder.with_name(".kept").rename(replacement.staging.parent)

    stop(work / "data" / "out", lambda staging: (staging / "a").write_bytes(bytes(500)))
    (work / "data" / ".partial-theirs").mkdir()
    (staging,) = (work / "data").glob(".partial-out-*")
    result = prune(work, "--only", "staging")
    assert list_leftovers(result) == {("staging", staging.name)}
    assert result.json["bytes"] >= 500
    with hold_target(describe(work / "data" / "other")):
        assert prune(work, "--only", "staging", "--confirm").status == 0
    assert not staging.exists()
    assert (work / "data" / ".partial-theirs").exists()


def test_prune_checkpoints_beside_an_interrupted_exchange_keeps_both_versions(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = describe(work / "data" / "out")
    target.folder.mkdir()
    for name in ("a", "notes.txt"):
        (target.folder / name).write_bytes(b"old")
    with monkeypatch.context() as patch, replace_folder(target) as replacement:
        (replacement.staging / "a").write_bytes(b"new")
        # As after a kill, nothing is exchanged.
        patch.setattr("base.replace._finish", lambda *_: None)
        replacement.commit("earlier")
        (kept := replacement.staging.parent).rename(work / "kept")
    (work / "kept").rename(kept)
    save_checkpoint(work, "out")
    assert prune(work, "--only", "checkpoints,staging", "--confirm").json["bytes"] == 1000
    with hold_target(target):
        assert read_files(target.folder) == {"a": b"new", "notes.txt": b"old"}
        assert read_files(target.folder.with_name("earlier")) == {"a": b"old"}


def test_prune_incomplete_result_of_a_running_command_in_a_folder_of_the_same_name_is_kept(work: Path) -> None:
    (work / "out").mkdir()
    with replace_folder(describe(work / "out" / "out")) as replacement:
        assert prune(work, "--only", "staging").json["leftovers"] == []
        assert replacement.staging.is_dir()


def test_prune_entries_with_unexpected_names_or_contents_are_kept(work: Path) -> None:
    save_checkpoint(work, "")
    (plan := work / f"{PARTIAL_PREFIX}theirs" / PLAN_NAME).parent.mkdir()
    plan.write_text(json.dumps({"target": 1}))
    result = prune(work, "--only", "checkpoints,staging", "--confirm")
    assert (result.status, result.json["leftovers"]) == (0, [])


def test_prune_earlier_store_is_listed_only_if_asked_for_and_not_needed(work: Path) -> None:
    store, aside = work / "data" / "store", work / "data" / "store-20261125-140327"
    store.rename(aside)
    make_store(store, [*list_paths({"train/cats": 3, "train/dogs": 3})])
    assert prune(work, "--only", "stores").json["leftovers"] == []
    shutil.rmtree(work / "data" / "run")
    assert "stores" not in {kind for kind, _ in list_leftovers(prune(work))}
    assert list_leftovers(prune(work, "--only", "stores", "--confirm")) == {("stores", aside.name)}
    assert not aside.exists()
    assert FeatureStore(store).num_features == 6


def test_prune_earlier_store_that_a_run_records_is_kept(work: Path) -> None:
    store, aside, run = (work / "data" / name for name in ("store", "store-20261125-140327", "run"))
    store.rename(aside)
    make_store(store, [*list_paths({"train/cats": 3, "train/dogs": 3})])
    (run / LOCAL_FILE).write_text(json.dumps({"store": str(aside), "images": ""}))
    assert prune(work, "--only", "stores").json["leftovers"] == []
    assert prune(aside, "--only", "stores").json["leftovers"] == []
    (run / RUN_FILE).write_text("{")
    assert prune(work, "--only", "stores").json["leftovers"] == []


def write_export(folder: Path, head: str) -> None:
    """Write the description and the labels of an exported model; `head` is the digest of its head."""
    folder.mkdir()
    (folder / LABELS_FILE).write_bytes(b"cats\ndogs\n")
    files = {LABELS_FILE: hash_file(folder / LABELS_FILE)}
    description = ModelDescription(replace(make_small_card(2), run=head), files=files)
    (folder / DESCRIPTION_FILE).write_bytes(encode_description(description))


@pytest.mark.parametrize("inside", ["", WITHOUT_DROPOUT])
def test_prune_earlier_run_or_comparison_that_is_exported_is_kept(work: Path, inside: str) -> None:
    data = work / "data"
    for name in ("new", "new-2026-11-25-140327"):
        shutil.copytree(data / "run", data / name / inside)
    assert list_leftovers(prune(work, "--only", "runs")) == {("runs", "new-2026-11-25-140327")}
    write_export(data / "model", Run(data / "run").record.head)
    assert list_leftovers(prune(work, "--only", "runs")) == set()


def test_prune_export_of_a_run_that_is_gone_is_listed_only_if_asked_for(work: Path) -> None:
    for name, head in (("model", "f" * 64), ("current", Run(work / "data" / "run").record.head)):
        write_export(work / "data" / name, head)
    assert "exports" not in {kind for kind, _ in list_leftovers(prune(work))}
    assert list_leftovers(prune(work, "--only", "exports", "--confirm")) == {("exports", "model")}
    assert [path.name for path in work.glob("data/*/model.json")] == [DESCRIPTION_FILE]
    assert (work / "data" / "current" / LABELS_FILE).is_file()


def test_prune_missing_folder_and_unknown_kind_are_usage_errors(tmp_path: Path) -> None:
    assert prune(tmp_path / "nothing").status == 2
    # As with an unset variable of the shell, which is not the current folder.
    assert run_command("train_head.prune.__main__", "", "--json").status == 2
    assert run_command("train_head.prune.__main__", "--json", "").status == 2
    assert prune(tmp_path, "--only", "everything").status == 2
