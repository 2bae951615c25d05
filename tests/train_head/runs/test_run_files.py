"""Files of a run: digests, valid ranges, regular files only, no local paths."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from base.errors import HeadstartError
from base.terminal import Console
from features.store import FeatureStore
from tests.errors import raises
from tests.files import read_files
from tests.train_head.synthetic import list_paths, make_store
from tests.train_head.training import make_config
from train_head.config import ReportConfig
from train_head.report.sources import load_sources
from train_head.runs.read import Run
from train_head.runs.write import rewrite_run, write_metrics
from train_head.train import train_head

pytestmark = pytest.mark.unit

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
    """Run of the reduced solver, not to be changed."""
    run = tmp_path_factory.mktemp("finished") / "run"
    train_head(make_config(two_classes, run), quiet)
    return run


@pytest.fixture
def own_run(finished: Path, tmp_path: Path) -> Path:
    """Copy of a run of the reduced solver."""
    return shutil.copytree(finished, tmp_path / "run")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def convert_to_version_1(run: Path, store: Path) -> None:
    """Rewrite the files of a run as version 1 wrote them."""
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
def test_run_file_with_a_changed_byte_is_refused(own_run: Path, name: str) -> None:
    run = Run(own_run)
    data = bytearray((own_run / name).read_bytes())
    # In a text file, change a digit of a number.
    place = next(place for place in range(len(data) // 2, len(data)) if chr(data[place]) in "0123456789")
    data[place] = ord("1") if data[place] != ord("1") else ord("2")
    (own_run / name).write_bytes(data)
    with raises(HeadstartError, where=own_run / name):
        READS[name](run)
    with raises(HeadstartError, where=own_run / name):
        load_sources(ReportConfig(own_run))


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("kind", ["fifo", "device", "link", "folder"])
def test_run_file_that_is_not_regular_is_refused(own_run: Path, name: str, kind: str) -> None:
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
    with raises(HeadstartError, where=own_run if name == "run.json" else path):
        READS[name](run)


def test_run_files_except_local_json_contain_no_local_path(finished: Path) -> None:
    for path in finished.iterdir():
        if path.name != "local.json":
            assert str(finished.parent.parent).encode() not in path.read_bytes()


def test_open_store_finds_the_store_after_a_move_of_the_run_with_or_without_it(
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


def test_open_store_with_another_fingerprint_is_refused(own_run: Path, three_classes: FeatureStore) -> None:
    other = make_store(
        own_run.parent / "other",
        list_paths({"train/cats": 2, "train/dogs": 2}),
        fingerprint=replace(three_classes.fingerprint, image_size=80),
    )
    with raises(HeadstartError, where=own_run) as caught:
        Run(own_run).open_store(str(other.path))
    assert other.fingerprint.digest[:12] in caught.value.got


def test_rewrite_run_changes_one_file_and_keeps_all_others(own_run: Path) -> None:
    (own_run / "notes.txt").write_text("mine")
    before = read_files(own_run)
    run = Run(own_run)
    with rewrite_run(run) as folder:
        write_metrics(folder, {**run.read_metrics(), "test": {"accuracy": 1.0}})
    after = read_files(own_run)
    assert {name for name in after if after[name] != before.get(name)} == {"metrics.json", "run.json"}
    assert set(after) == set(before)
    Run(own_run).check_files()
    assert Run(own_run).record.head == run.record.head
    # The run on disk is no longer the one that was read.
    with raises(HeadstartError, where=own_run), rewrite_run(run):
        pytest.fail("opened")
    assert read_files(own_run) == after


def test_run_of_version_1_is_read_and_rewritten_as_version_2(own_run: Path, two_classes: FeatureStore) -> None:
    new = Run(own_run)
    examples = new.read_examples()
    convert_to_version_1(own_run, two_classes.path)
    old = Run(own_run)
    assert (old.record.run_version, old.record.head) == (1, new.record.head)
    assert old.read_examples() == examples
    assert old.open_store().path == two_classes.path
    sources = load_sources(ReportConfig(own_run))
    assert len(sources.split.train) == 23
    with rewrite_run(old):
        pass
    rewritten = Run(own_run)
    assert rewritten.record.run_version == 3
    assert rewritten.record.config == new.record.config
    assert rewritten.open_store().path == two_classes.path
    rewritten.check_files()


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
    convert_to_version_1(own_run, two_classes.path)
    edit(own_run / name, old, new)
    with raises(HeadstartError, where=own_run if name == "run.json" else own_run / name):
        READS[name](Run(own_run))


VALUES: list[Any] = [None, True, -1, 10**400, 1e300, float("nan"), "x", [], {}, [[]]]


def test_run_json_with_an_invalid_value_is_refused(own_run: Path) -> None:
    text = json.loads((own_run / "run.json").read_text())
    for name in text:
        for value in VALUES:
            changed = json.dumps({**text, name: value})
            (own_run / "run.json").write_text(changed)
            if json.loads(changed) != text:
                with pytest.raises(HeadstartError) as caught:
                    Run(own_run)
                assert caught.value.where in (own_run, own_run / "run.json")
