"""A run's files: checked by digest and range, regular files alone, and without paths of the machine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from base.errors import HeadstartError
from base.terminal import Console
from features.store import FeatureStore
from tests.train_head.synthetic import list_paths, make_store, read_folder
from tests.train_head.training import make_config
from train_head.config import ReportConfig
from train_head.report.sources import load_sources
from train_head.runs.read import Run
from train_head.runs.write import rewrite_run, write_metrics
from train_head.train import train_head

READS: dict[str, Callable[[Run], object]] = {
    "run.json": lambda run: Run(run.folder),
    "metrics.json": Run.read_metrics,
    "history.csv": Run.read_history,
    "examples.csv": Run.read_examples,
    "predictions.csv": Run.read_predictions,
    "head.npz": Run.read_head,
    "validation_logits.npy": Run.read_validation_logits,
}


@pytest.fixture(scope="module")
def finished(two_classes: FeatureStore, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    train_head(make_config(two_classes, run), quiet)
    return run


@pytest.fixture
def own_run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def make_version_1(run: Path, store: Path) -> None:
    """Write a run's files as version 1 had them."""
    record = json.loads((run / "run.json").read_text())
    for name in ("files", "digest", "created", "images", "weights", "weights_sha256"):
        del record[name]
    record["config"] = {"store": str(store), "run": str(run), "weights": "", **record["config"]}
    record |= {"run_version": 1, "head_sha256": record.pop("head"), "store": str(store)}
    (run / "run.json").write_text(json.dumps(record))
    lines = (run / "examples.csv").read_text().splitlines()
    (run / "examples.csv").write_text("".join(line.rpartition(",")[0] + "\n" for line in lines))
    (run / "local.json").unlink()


@pytest.mark.parametrize("name", READS)
def test_run_file_with_a_changed_byte_is_refused_by_its_name(own_run: Path, name: str) -> None:
    run = Run(own_run)
    data = bytearray((own_run / name).read_bytes())
    # A digit of a number in a text.
    place = next(place for place in range(len(data) // 2, len(data)) if chr(data[place]) in "0123456789")
    data[place] = ord("1") if data[place] != ord("1") else ord("2")
    (own_run / name).write_bytes(data)
    with pytest.raises(HeadstartError) as raised:
        READS[name](run)
    assert raised.value.where == own_run / name
    with pytest.raises(HeadstartError) as raised:
        load_sources(ReportConfig(own_run))
    assert raised.value.where == own_run / name


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("kind", ["fifo", "device", "link", "folder"])
def test_run_file_that_is_no_regular_file_is_refused_at_once(own_run: Path, name: str, kind: str) -> None:
    run, path = Run(own_run), own_run / name
    path.rename(own_run.parent / "moved")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "link":
        path.symlink_to(own_run.parent / "moved")
    else:
        path.mkdir()
    with pytest.raises(HeadstartError) as raised:
        READS[name](run)
    assert str(raised.value.where).startswith(str(own_run))


def test_run_json_holds_no_path_of_the_machine(finished: Path) -> None:
    for path in finished.iterdir():
        if path.name != "local.json":
            assert str(finished.parent.parent).encode() not in path.read_bytes()


def test_run_moved_with_its_store_finds_it_and_moved_alone_by_its_absolute_path(
    own_store: Path, tmp_path: Path, quiet: Console
) -> None:
    train_head(make_config(own_store, tmp_path / "run"), quiet)
    (tmp_path / "elsewhere").mkdir()
    alone = shutil.copytree(tmp_path / "run", tmp_path / "elsewhere" / "alone")
    assert Run(alone).open_store().path == own_store
    (tmp_path / "moved").mkdir()
    for name in ("run", "store"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    (tmp_path / "moved" / "run" / "local.json").unlink()
    assert Run(tmp_path / "moved" / "run").open_store().path.resolve() == tmp_path / "moved" / "store"


def test_run_on_a_store_of_other_features_is_refused(own_run: Path, three_classes: FeatureStore) -> None:
    other = make_store(
        own_run.parent / "other",
        list_paths({"train/cats": 2, "train/dogs": 2}),
        fingerprint=three_classes.fingerprint.__class__(**{**vars(three_classes.fingerprint), "image_size": 80}),
    )
    with pytest.raises(HeadstartError) as raised:
        Run(own_run).open_store(str(other.path))
    assert raised.value.where == own_run


def test_rewrite_run_changes_one_file_and_leaves_the_others_and_the_users(own_run: Path) -> None:
    (own_run / "notes.txt").write_text("mine")
    before = read_folder(own_run)
    run = Run(own_run)
    with rewrite_run(run) as folder:
        write_metrics(folder, {**run.read_metrics(), "test": {"accuracy": 1.0}})
    after = read_folder(own_run)
    assert {name for name in after if after[name] != before.get(name)} == {"metrics.json", "run.json"}
    assert set(after) == set(before)
    Run(own_run).check_files()
    assert Run(own_run).record.head == run.record.head
    # Of a run that is another by now, nothing is written.
    with pytest.raises(HeadstartError), rewrite_run(run):
        pytest.fail("opened")


def test_run_of_version_1_is_read_and_rewritten_in_the_version_of_today(
    own_run: Path, two_classes: FeatureStore
) -> None:
    made = Run(own_run)
    examples = made.read_examples()
    make_version_1(own_run, two_classes.path)
    old = Run(own_run)
    assert (old.record.run_version, old.record.head) == (1, made.record.head)
    assert old.read_examples() == examples
    assert old.open_store().path == two_classes.path
    sources = load_sources(ReportConfig(own_run))
    assert len(sources.split.train) == 23
    with rewrite_run(old):
        pass
    new = Run(own_run)
    assert new.record.run_version == 2
    assert new.record.config == made.record.config
    assert new.open_store().path == two_classes.path
    new.check_files()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("run.json", '"dropout": 0.3', '"dropout": 7.5'),
        ("run.json", '"dropout": 0.3', '"dropout": NaN'),
        ("run.json", '"dropout": 0.3', '"dropout": [0.3]'),
        ("run.json", '"units": 8', '"units": "8"'),
        ("run.json", '"optimizer": "rmsprop"', '"optimizer": "other"'),
        ("run.json", '["cats", "dogs"]', '["cats", "cats"]'),
        ("run.json", '["cats", "dogs"]', '["cats", 5]'),
        ("history.csv", "\n3,", "\n4,"),
        ("predictions.csv", "validation/cats/00.jpg,cats", "validation/cats/00.jpg,owls"),
        ("predictions.csv", "validation/cats/00.jpg", "../../etc/passwd"),
        ("predictions.csv", "cats/00.jpg,cats,cats,0.", "cats/00.jpg,cats,cats,7."),
        ("predictions.csv", "cats/00.jpg,cats,cats,0.", "cats/00.jpg,cats,cats,nan"),
        ("examples.csv", "train,cats", "other,cats"),
        ("examples.csv", "train,cats", "train,owls"),
    ],
)
def test_run_of_version_1_with_a_value_out_of_range_is_refused(
    own_run: Path, two_classes: FeatureStore, name: str, old: str, new: str
) -> None:
    make_version_1(own_run, two_classes.path)
    edit(own_run / name, old, new)
    with pytest.raises(HeadstartError):
        READS[name](Run(own_run))


VALUES: list[Any] = [None, True, -1, 10**400, 1e300, float("nan"), "x", [], {}, [[]]]


def test_run_json_with_any_value_of_another_kind_is_an_error_with_its_place(own_run: Path) -> None:
    text = json.loads((own_run / "run.json").read_text())
    for name in text:
        for value in VALUES:
            changed = json.dumps({**text, name: value})
            (own_run / "run.json").write_text(changed)
            if json.loads(changed) != text:
                with pytest.raises(HeadstartError):
                    Run(own_run)
