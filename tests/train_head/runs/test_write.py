"""Writing of runs: names, relative paths and warnings; finding the store and the pictures of a run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from base.errors import HeadstartError, UsageError
from base.terminal import Console
from features.store import FeatureStore
from tests.errors import raises
from tests.train_head.synthetic import make_store
from tests.train_head.training import make_config
from train_head.runs.read import Run
from train_head.runs.record import LOCAL_FILE, RUN_FILE, describe_run_target, refuse_foreign_run
from train_head.runs.write import copy_run, name_archive, shorten_path, warn_on_failure, write_page
from train_head.train import train_head

pytestmark = pytest.mark.unit

CREATED = "2026-11-25T14:03:27+00:00"


@pytest.fixture(scope="module")
def _finished(two_classes: FeatureStore, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    run = tmp_path_factory.mktemp("written") / "run"
    train_head(make_config(two_classes, run, epochs=1), quiet)
    record = replace(Run(run).record, created=CREATED)
    (run / RUN_FILE).write_bytes(record.format())
    return run


@pytest.fixture
def run(_finished: Path, tmp_path: Path) -> Path:
    """Copy of a run of a known date."""
    return shutil.copytree(_finished, tmp_path / "run")


def test_name_archive_has_the_date_of_the_run(run: Path) -> None:
    local = datetime.fromisoformat(CREATED).astimezone()
    name = f"run-{local:%Y-%m-%d-%H%M%S}"
    assert name_archive(run, run) == name
    (run.parent / name).mkdir()
    (run / f"{name}-2").mkdir()
    assert name_archive(run, run) == f"{name}-3"


def test_name_archive_of_a_run_without_a_date_has_the_time_of_its_record(run: Path) -> None:
    (run / RUN_FILE).write_bytes(replace(Run(run).record, created="").format())
    os.utime(run / RUN_FILE, (1e9, 1e9))
    assert name_archive(run, run) == f"run-{datetime.fromtimestamp(1e9).astimezone():%Y-%m-%d-%H%M%S}"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("a/store", "../store"),
        ("a/run/store", "store"),
        ("a/b/store", "../b/store"),
        ("a/b/c/store", "store"),
        ("store", "../../store"),
        ("/store", "store"),
    ],
)
def test_shorten_path_is_relative_only_for_a_near_path(tmp_path: Path, path: str, shown: str) -> None:
    assert shorten_path(tmp_path / path, tmp_path / "a/run") == shown


def test_shorten_path_more_than_three_folders_up_is_the_name(tmp_path: Path) -> None:
    assert shorten_path(tmp_path / "store", tmp_path / "a/b/c") == "../../../store"
    assert shorten_path(tmp_path / "store", tmp_path / "a/b/c/d") == "store"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no colour"), "no colour"),
        (ValueError(), "ValueError"),
        (HeadstartError("curves", "a colour", "none", "Name one"), "Name one"),
    ],
)
def test_warn_on_failure_prints_one_warning_and_continues(
    quiet: Console, capsys: pytest.CaptureFixture[str], error: Exception, reason: str
) -> None:
    with warn_on_failure("curves.png", quiet):
        raise error
    (warning,) = capsys.readouterr().err.splitlines()
    assert "curves.png" in warning
    assert reason in warning
    assert ".." not in warning


def test_warn_on_failure_passes_an_interrupt(quiet: Console) -> None:
    with pytest.raises(KeyboardInterrupt), warn_on_failure("curves.png", quiet):
        raise KeyboardInterrupt


def test_describe_run_target_of_the_root_is_wrong_usage() -> None:
    with raises(UsageError, where="/"):
        describe_run_target(Path("/"))


def test_refuse_foreign_run_accepts_an_edited_run_only(run: Path, tmp_path: Path) -> None:
    edited = (run / RUN_FILE).read_text().replace('"seed": 3', '"seed": 4')
    (run / RUN_FILE).write_text(edited)
    refuse_foreign_run(run)
    with raises(HeadstartError, where=run / RUN_FILE):
        Run(run)
    with raises(HeadstartError, where=tmp_path):
        refuse_foreign_run(tmp_path)


def test_copy_run_links_its_files_or_copies_them(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError

    for name in ("linked", "copied"):
        (tmp_path / name).mkdir()
    copy_run(Run(run), tmp_path / "linked")
    monkeypatch.setattr("os.link", refuse)
    copy_run(Run(run), tmp_path / "copied")
    for path in run.iterdir():
        assert (tmp_path / "linked" / path.name).samefile(path)
        assert not (tmp_path / "copied" / path.name).samefile(path)
        assert (tmp_path / "copied" / path.name).read_bytes() == path.read_bytes()


def test_copy_run_of_a_damaged_run_is_refused(run: Path, tmp_path: Path) -> None:
    read = Run(run)
    (run / "history.csv").write_text("")
    (tmp_path / "copy").mkdir()
    with raises(HeadstartError, where=run / "history.csv"):
        copy_run(read, tmp_path / "copy")
    assert list((tmp_path / "copy").iterdir()) == []


def replace_record(run: Path) -> None:
    (run / RUN_FILE).write_bytes(replace(Run(run).record, created="").format())


@pytest.mark.parametrize("change", [replace_record, shutil.rmtree])
def test_require_unchanged_of_a_replaced_or_deleted_run_is_refused(run: Path, change: Callable[[Path], None]) -> None:
    read = Run(run)
    read.require_unchanged()
    change(run)
    with raises(HeadstartError, where=run):
        read.require_unchanged()


def test_metrics_of_a_replaced_run_are_refused_with_the_folder_of_the_run(run: Path) -> None:
    read = Run(run)
    (run / "metrics.json").write_text(read.metrics["solver"])
    replace_record(run)
    with raises(HeadstartError, where=run, got="another run in its folder"):
        assert read.metrics


def test_write_page_writes_the_report_of_an_unchanged_run_only(run: Path) -> None:
    read = Run(run)
    assert write_page(read, b"<p>", b"path") == run / "report.html"
    replace_record(run)
    with raises(HeadstartError, where=run):
        write_page(read, b"<b>", b"")
    assert (run / "report.html").read_bytes() == b"<p>"
    assert (run / "label_issues.csv").read_bytes() == b"path"


@pytest.mark.parametrize("content", [None, b"[]", b"{", b'{"store": 5}', b"[" * 10**5])
def test_read_local_paths_of_a_missing_or_invalid_file_is_empty(run: Path, content: bytes | None) -> None:
    (run / LOCAL_FILE).unlink()
    if content is not None:
        (run / LOCAL_FILE).write_bytes(content)
    assert Run(run).read_local_paths() == {}


def test_find_images_prefers_the_given_then_the_recorded_then_the_stores_folder(run: Path, tmp_path: Path) -> None:
    paths = ["train/cats/0.jpg", "train/dogs/0.jpg"]
    store = make_store(tmp_path / "store", paths, images_folder="/images/of/the/store")
    (run / LOCAL_FILE).write_text(json.dumps({"images": str(tmp_path)}))
    assert Run(run).find_images(store, "given") == "given"
    assert Run(run).find_images(store) == str(tmp_path)
    (run / LOCAL_FILE).write_text(json.dumps({"images": str(tmp_path / "missing")}))
    assert Run(run).find_images(store) == "/images/of/the/store"


def test_find_split_without_features_of_some_pictures_names_their_shard(
    run: Path, two_classes: FeatureStore, tmp_path: Path
) -> None:
    paths = [example.path for example in two_classes.examples if example.path != "train/cats/03.jpg"]
    store = make_store(tmp_path / "store", paths)
    (lost,) = [example for example in Run(run).read_examples() if example.path == "train/cats/03.jpg"]
    with raises(HeadstartError, where=f"{store.path}, {lost.shard}") as caught:
        Run(run).find_split(store)
    assert lost.shard.endswith(".h5")
    assert lost.path in caught.value.got
    assert "1 picture " in caught.value.got


def test_find_split_returns_the_recorded_labels_and_the_current_test_pictures(
    run: Path, two_classes: FeatureStore, tmp_path: Path
) -> None:
    paths = [example.path for example in two_classes.examples]
    store = make_store(tmp_path / "store", [*paths, "test/cats/0.jpg"])
    split = Run(run).find_split(store)
    assert sorted(example.path for example in split.train) == [path for path in sorted(paths) if "train/" in path]
    assert sorted(example.path for example in split.validation) == [path for path in sorted(paths) if "val" in path]
    assert [example.path for example in split.test] == ["test/cats/0.jpg"]
