"""A run on disk: its record, its tables, and the check of an existing folder."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import HeadstartError
from tests.errors import raises
from tests.train_head.synthetic import hash_text, list_paths, make_example
from tests.train_head.training import rewrite_manifest
from train_head.config import OptimizerName, SolverName, TrainConfig
from train_head.data.split import Split
from train_head.prepare import holds_run, list_differences
from train_head.runs.read import Run
from train_head.runs.record import RUN_VERSION, RunRecord, describe_config
from train_head.runs.tables import format_predictions, list_run_examples
from train_head.runs.write import write_run
from train_head.solvers import Fit
from train_head.solvers.head import HeadWeights
from train_head.solvers.history import Epoch

pytestmark = pytest.mark.unit

HEAD = HeadWeights(
    np.zeros((12, 3), np.float32),
    np.zeros(3, np.float32),
    np.zeros((3, 1), np.float32),
    np.zeros(1, np.float32),
)
HISTORY = [
    Epoch(1, 0.7000000000000001, 0.5, 0.6931471805599453, 1 / 3, 0.25),
    Epoch(2, 1e-17, 1.0, 12345.678901234567, 2 / 3, 0.125),
]
FIT = Fit(HEAD, HISTORY, 2, np.zeros((4, 2), np.float32), np.full((2, 2), 0.5, np.float32))
METRICS = {"val_accuracy": 2 / 3, "classes": ["cats", "dogs"]}
ODD_PATHS = [
    "train/cats/a, b.jpg",
    'train/cats/"quoted".jpg',
    "train/dogs/two\nlines.jpg",
    "train/dogs/return\rhere.jpg",
    "validation/cats/caf\udce9.jpg",
    "validation/dogs/Größe 日本 '.jpg",
    "validation/dogs/ spaces .jpg",
]


def make_split(paths: list[str]) -> Split:
    examples = [make_example(path) for path in paths]
    return Split(
        [example for example in examples if example.split == "train"],
        [example for example in examples if example.split == "validation"],
        "folder validation/",
    )


SPLIT = make_split(list_paths({"train/cats": 2, "train/dogs": 2, "validation/cats": 1, "validation/dogs": 1}))


def make_config(tmp_path: Path) -> TrainConfig:
    return TrainConfig(tmp_path / "store", tmp_path / "run", epochs=2, units=3)


def make_record(config: TrainConfig, fingerprint: str = "f" * 64) -> RunRecord:
    return RunRecord(
        config=describe_config(config),
        solver="full",
        store="../store",
        fingerprint=fingerprint,
        feature_shape=[2, 2, 3],
        classes=["cats", "dogs"],
        split_rule="folder validation/",
    )


def make_run(config: TrainConfig, split: Split = SPLIT) -> Run:
    """Write a run with a head of zeros, without fitting."""
    config.run.mkdir(parents=True)
    fit = replace(FIT, validation_probabilities=np.full((len(split.validation), 2), 0.5, np.float32))
    write_run(config.run, make_record(config), split, None, fit, METRICS)
    return Run(config.run)


def compare_run(config: TrainConfig, *, fingerprint: str = "f" * 64, split: Split = SPLIT) -> list[str]:
    return list_differences(Run(config.run), make_record(config, fingerprint), list_run_examples(split))


def test_describe_config_gives_json_types_without_paths() -> None:
    described = describe_config(TrainConfig(Path("store"), Path("run"), optimizer=OptimizerName.ADAM))
    assert json.loads(json.dumps(described)) == {
        "unfreeze_from": "none",
        "fine_tune_epochs": 10,
        "fine_tune_learning_rate": 1e-5,
        "cut": "",
        "pool": "none",
        "views": None,
        "solver": "auto",
        "rank": None,
        "epochs": 20,
        "batch_size": 20,
        "units": 1024,
        "dropout": 0.2,
        "l2": 0.0,
        "learning_rate": 1e-4,
        "optimizer": "adam",
        "momentum": 0.0,
        "class_weight": "none",
        "patience": 0,
        "repeats": 1,
        "folds": 0,
        "seed": 0,
        "validation_split": 0.2,
        "split": "content",
        "false_alarms": 0.01,
        "no_report": False,
        "tensorboard": False,
        "overwrite": False,
    }


def test_list_run_examples_sorts_by_split_then_path() -> None:
    listed = list_run_examples(Split(SPLIT.train[::-1], SPLIT.validation[::-1], ""))
    assert listed == list_run_examples(SPLIT)
    assert [(e.split, e.label, e.path) for e in listed] == [
        ("train", "cats", "train/cats/00.jpg"),
        ("train", "cats", "train/cats/01.jpg"),
        ("train", "dogs", "train/dogs/00.jpg"),
        ("train", "dogs", "train/dogs/01.jpg"),
        ("validation", "cats", "validation/cats/00.jpg"),
        ("validation", "dogs", "validation/dogs/00.jpg"),
    ]
    assert listed[0].content_hash == hash_text("train/cats/00.jpg").hex()


def test_run_reads_the_written_values(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    written = make_run(config)
    added: dict[str, Any] = {"head": "", "created": "", "files": {}, "digest": ""}
    assert replace(written.record, **added) == make_record(config)
    assert written.dropout == 0.2
    assert written.read_metrics() == {"head": written.record.head, **METRICS}
    assert written.read_examples() == list_run_examples(SPLIT)
    assert written.read_head().input_kernel.shape == (12, 3)


def test_read_head_of_another_head_is_refused(tmp_path: Path) -> None:
    run = make_run(make_config(tmp_path))
    head = run.read_head()
    replace(head, output_bias=head.output_bias + 1).save(run.folder / "head.npz")
    with raises(HeadstartError, where=run.folder / "head.npz") as caught:
        run.read_head()
    assert run.record.head[:12] in caught.value.expected


@pytest.mark.parametrize(
    "change",
    [
        {"config": {}},
        {"config": None},
        {"config": {"dropout": "x", "validation_split": 0.2}},
        {"config": {"dropout": 0.2, "validation_split": None}},
        {"store": 5},
        {"fingerprint": 5},
        {"classes": None},
    ],
)
def test_run_json_with_a_value_of_another_type_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    run = make_run(make_config(tmp_path))
    path = run.folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with raises(HeadstartError, where=run.folder) as caught:
        Run(run.folder)
    assert str(next(iter(change))) in caught.value.got


def test_read_examples_returns_odd_paths_unchanged(tmp_path: Path) -> None:
    split = make_split(ODD_PATHS)
    written = make_run(make_config(tmp_path), split)
    examples = written.read_examples()
    assert examples == list_run_examples(split)
    assert {example.path for example in examples} == set(ODD_PATHS)
    assert b"validation/cats/caf\xe9.jpg" in (written.folder / "examples.csv").read_bytes()
    assert os.fsencode(examples[4].path) == b"validation/cats/caf\xe9.jpg"


def test_history_csv_has_every_digit(tmp_path: Path) -> None:
    folder = make_run(make_config(tmp_path)).folder
    with (folder / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds"]
    read = [Epoch(int(row.pop("epoch")), **{name: float(value) for name, value in row.items()}) for row in rows]
    assert read == HISTORY


def test_format_predictions_writes_label_prediction_and_probabilities(tmp_path: Path) -> None:
    examples = [make_example("validation/cats/a, b.jpg"), make_example("validation/dogs/caf\udce9.jpg")]
    probabilities = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    (tmp_path / "p.csv").write_bytes(format_predictions(examples, ["cats", "dogs"], probabilities))
    with (tmp_path / "p.csv").open(newline="", errors="surrogateescape") as file:
        assert list(csv.reader(file)) == [
            ["path", "label", "predicted", "p(cats)", "p(dogs)"],
            ["validation/cats/a, b.jpg", "cats", "dogs", "0.25", "0.75"],
            ["validation/dogs/caf\udce9.jpg", "dogs", "cats", "0.5", "0.5"],
        ]


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"config": {}}', '{"unknown": 1}'])
def test_run_without_a_valid_run_json_is_refused(tmp_path: Path, content: str | None) -> None:
    folder = make_run(make_config(tmp_path)).folder
    (folder / "run.json").unlink()
    if content is not None:
        (folder / "run.json").write_text(content)
    with raises(HeadstartError, where=folder):
        Run(folder)


def test_run_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    folder = make_run(make_config(tmp_path)).folder
    values = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(values | {"run_version": RUN_VERSION + 1, "later": 1}))
    with raises(HeadstartError, where=folder) as caught:
        Run(folder)
    assert str(RUN_VERSION) in caught.value.expected
    assert str(RUN_VERSION + 1) in caught.value.got


@pytest.mark.parametrize("name", ["metrics.json", "examples.csv", "head.npz"])
def test_run_without_one_of_its_files_names_the_file(tmp_path: Path, name: str) -> None:
    written = make_run(make_config(tmp_path))
    (written.folder / name).unlink()
    reads = {
        "metrics.json": written.read_metrics,
        "examples.csv": written.read_examples,
        "head.npz": written.read_head,
    }
    with raises(HeadstartError, where=written.folder / name):
        reads[name]()


def test_run_with_damaged_metrics_or_examples_names_the_file(tmp_path: Path) -> None:
    written = make_run(make_config(tmp_path))
    (written.folder / "metrics.json").write_text('{"val_acc')
    (written.folder / "examples.csv").write_text("other,columns\n1,2\n")
    rewrite_manifest(written.folder)
    run = Run(written.folder)
    with raises(HeadstartError, where=run.folder / "metrics.json"):
        run.read_metrics()
    with raises(HeadstartError, where=run.folder / "examples.csv"):
        run.read_examples()


@pytest.mark.parametrize("exists", [False, True], ids=["absent", "empty"])
def test_holds_run_of_a_free_folder_is_false(tmp_path: Path, exists: bool) -> None:
    config = make_config(tmp_path)
    if exists:
        config.run.mkdir()
    assert holds_run(config.run) is False


def test_list_differences_of_the_same_run_is_empty(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    make_run(config)
    assert holds_run(config.run) is True
    assert compare_run(config) == []
    assert compare_run(replace(config, no_report=True, overwrite=True, store=tmp_path / "moved")) == []


def test_list_differences_of_other_options_gives_both_values_of_each(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    make_run(config)
    other = replace(config, units=64, learning_rate=0.5, optimizer=OptimizerName.SGD, solver=SolverName.FULL)
    record = make_record(other)
    found = list_differences(Run(config.run), record, list_run_examples(SPLIT))
    values = [("solver", "auto", "full"), ("units", "3", "64"), ("learning_rate", "0.0001", "0.5")]
    values.append(("optimizer", "rmsprop", "sgd"))
    assert len(found) == len(values)
    for difference, words in zip(found, values, strict=True):
        assert set(words) <= set(difference.split())


def test_list_differences_of_other_features_or_pictures_has_one_entry(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    make_run(config)
    assert len(compare_run(config, fingerprint="e" * 64)) == 1
    moved = Split(SPLIT.train[1:], [*SPLIT.validation, SPLIT.train[0]], "")
    for split in (make_split(list_paths({"train/cats": 2, "validation/cats": 1})), moved):
        assert len(compare_run(config, split=split)) == 1


def test_holds_run_of_a_folder_with_other_files_or_a_file_is_refused(tmp_path: Path) -> None:
    folder = make_config(tmp_path).run
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    for path in (folder, folder / "thesis.txt"):
        with raises(HeadstartError, where=path):
            holds_run(path)


def test_examples_csv_has_a_row_for_each_example(tmp_path: Path) -> None:
    folder = make_run(make_config(tmp_path)).folder
    with (folder / "examples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["side", "label", "content_hash", "path", "shard"]
    assert [list(row.values()) for row in rows] == [list(astuple(example)) for example in list_run_examples(SPLIT)]
