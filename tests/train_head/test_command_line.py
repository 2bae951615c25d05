"""Command lines of stage two: exit status, one JSON object on stdout, and errors before TensorFlow is imported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from features.store import FeatureStore
from tests.commands import run_command
from tests.pictures import draw_picture, encode, fill_folder
from tests.train_head.processes import run_process
from tests.train_head.synthetic import list_paths, make_store


@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("train_head", ["--store", "--run", "--epochs", "--unfreeze-from", "--overwrite", "--json"]),
        ("train_head.sweep", ["--store", "--out", "--try", "--search", "--json"]),
        ("train_head.report", ["--run", "--test", "--images", "--json"]),
        ("train_head.export", ["--run", "--out", "--formats", "--weights", "--json"]),
        ("train_head.predict", ["{FILE_OR_DIR}...\n", "--model", "--batch-size", "--json"]),
    ],
)
def test_help_lists_options_without_tensorflow(module: str, options: list[str]) -> None:
    done = run_process(module, "--help")
    assert (done.status, done.imported) == (0, [])
    assert done.out.lstrip().startswith(f"Usage: python -m {module} ")
    for option in options:
        assert option in done.out


@pytest.mark.parametrize(
    ("arguments", "status", "kind", "where"),
    [
        (["train_head", "--store", "nowhere", "--run", "r"], 1, "StoreMissingError", "nowhere"),
        (["train_head.export", "--run", "r", "--out", "o", "--formats", "onx"], 2, "UsageError", "--formats"),
        (["train_head.predict", "--model", "m.keras", "nowhere.jpg"], 2, "UsageError", "nowhere.jpg"),
    ],
    ids=["store", "format", "picture"],
)
def test_command_with_invalid_argument_fails_without_tensorflow(
    arguments: list[str], status: int, kind: str, where: str
) -> None:
    done = run_process(*arguments, "--json")
    assert (done.status, done.imported) == (status, [])
    error = json.loads(done.out)
    assert (error["type"], error["where"]) == (kind, where)


def test_command_with_unknown_option_exits_2() -> None:
    done = run_command("train_head.__main__", "--stor", "x", "--json")
    assert done.status == 2
    assert "--stor" in done.json["error"]


@pytest.mark.parametrize("solver", ["auto", "full"])
def test_train_on_class_with_one_picture_exits_1_without_tensorflow(tmp_path: Path, solver: str) -> None:
    store = make_store(tmp_path / "store", list_paths({"cats": 9, "dogs": 1}))
    done = run_process("train_head", "--store", store.path, "--run", tmp_path / "run", "--solver", solver, "--json")
    assert (done.status, done.imported) == (1, [])
    error = json.loads(done.out)
    assert error["type"] == "HeadstartError"
    assert "dogs" in error["where"]
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_train_with_json_prints_one_object_and_nothing_else_on_stdout(
    two_classes: FeatureStore, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options: list[str | Path] = [
        "--store",
        two_classes.path,
        "--run",
        run,
        "--epochs",
        "2",
        "--units",
        "4",
        "--batch-size",
        "8",
    ]
    done = run_command("train_head.__main__", *options, "--json")
    assert done.status == 0, done.err
    keys = {"solver", "epochs", "seconds", "train_accuracy", "val_accuracy", "val_loss", "classes"}
    assert keys <= done.json.keys()
    assert (done.json["epochs"], done.json["classes"]) == (2, ["cats", "dogs"])
    assert json.loads((run / "metrics.json").read_text()) == done.json
    for value in ("2/2", f"{done.json['val_accuracy']:.4f}", f"{done.json['largest_class_share']:.4f}"):
        assert value in done.err
    again = run_process("train_head", *options, "--json")
    assert (again.status, again.imported, json.loads(again.out)) == (0, [], done.json)


def test_predict_with_bad_picture_exits_1_and_prints_other_predictions(tiny_three: Path, tmp_path: Path) -> None:
    fill_folder(tmp_path, {"cats": 1, "dogs": 1})
    (tmp_path / "owls").mkdir()
    (tmp_path / "owls/o.png").write_bytes(encode(draw_picture("owls", 0)))
    (tmp_path / "owls/bad.png").write_bytes(b"")
    done = run_command("train_head.predict.__main__", "--model", tiny_three, tmp_path, "--json", "-q")
    assert (done.status, done.err) == (1, "")
    assert [found["label"] for found in done.json["predictions"]] == ["cats", "dogs", "owls"]
    assert [found["image"] for found in done.json["failed"]] == [str(tmp_path / "owls/bad.png")]
    assert done.json["accuracy"] == 1.0
