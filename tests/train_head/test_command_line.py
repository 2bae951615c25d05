"""The command lines of stage two: exit status, one JSON object on stdout, and answers before TensorFlow."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from features.store import FeatureStore
from tests.pictures import draw_picture, encode, fill_folder
from tests.train_head.synthetic import list_paths, make_store

ROOT = Path(__file__).parents[2]
COMMANDS = ("train_head", "train_head.export", "train_head.predict")
AS_A_MODULE = """
import atexit, runpy, sys
module = sys.argv.pop(1)
atexit.register(lambda: print("imported:", *({"tensorflow", "keras"} & set(sys.modules)), file=sys.stderr))
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str
    imported: str


def run_command(module: str, *arguments: str | Path) -> Said:
    """Runs `python -m module`, and looks whether TensorFlow was imported."""
    done = subprocess.run(
        [sys.executable, "-c", AS_A_MODULE, module, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    said, _, imported = done.stderr.rpartition("imported:")
    return Said(done.returncode, done.stdout, said, imported.strip())


@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("train_head", ["--store", "--run", "--epochs", "--unfreeze-from", "--overwrite", "--json"]),
        ("train_head.sweep", ["--store", "--out", "--try", "--search", "--json"]),
        ("train_head.report", ["--run", "--test", "--images", "--json"]),
        ("train_head.export", ["--run", "--out", "--formats", "--weights", "--json"]),
        ("train_head.predict", ["FILE_OR_DIR...", "--model", "--batch-size", "--json"]),
    ],
)
def test_command_help_lists_the_options_without_tensorflow(module: str, options: list[str]) -> None:
    said = run_command(module, "--help")
    assert (said.status, said.imported) == (0, "")
    assert said.stdout.lstrip().startswith(f"Usage: python -m {module} ")
    for option in options:
        assert option in said.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["train_head", "--stor", "x"], 2, "No such option: --stor"),
        (["train_head", "--store", "nowhere", "--run", "r"], 1, "error: nowhere: expected a feature store"),
        (
            ["train_head.export", "--run", "nowhere", "--out", "o", "--formats", "onx"],
            2,
            "error: --formats: expected keras, got 'onx'",
        ),
        (
            ["train_head.predict", "--model", "m.keras", "nowhere.jpg"],
            2,
            "error: nowhere.jpg: expected a picture or a folder",
        ),
    ],
    ids=["no such option", "no such store", "no such format", "no such picture"],
)
def test_command_with_a_typing_mistake_answers_without_tensorflow(
    arguments: list[str], status: int, message: str
) -> None:
    said = run_command(*arguments)
    assert (said.status, said.imported, said.stdout) == (status, "", "")
    assert message in said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize("solver", ["auto", "full", "reduced"])
def test_train_command_on_a_class_with_one_picture_exits_1_and_names_it_without_tensorflow(
    tmp_path: Path, solver: str
) -> None:
    store = make_store(tmp_path / "store", list_paths({"cats": 9, "dogs": 1}))
    said = run_command("train_head", "--store", store.path, "--run", tmp_path / "run", "--solver", solver)
    assert (said.status, said.imported, said.stdout) == (1, "", "")
    error = said.stderr.splitlines()[-1]
    assert error.startswith("error: class 'dogs': ")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_train_command_with_a_rank_for_the_full_solver_exits_2_without_tensorflow(
    two_classes: FeatureStore, tmp_path: Path
) -> None:
    options = ["--solver", "full", "--rank", "4", "--json"]
    said = run_command("train_head", "--store", two_classes.path, "--run", tmp_path / "run", *options)
    assert (said.status, said.imported) == (2, "")
    message = json.loads(said.stdout)["error"]
    assert message.startswith("--rank: expected --solver reduced or auto, got --solver full. ")
    assert said.stderr == f"error: {message}\n"
    assert list(tmp_path.iterdir()) == []


def test_train_command_with_json_prints_one_object_and_the_rest_on_stderr(
    two_classes: FeatureStore, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ["--epochs", "2", "--units", "4", "--batch-size", "8", "--optimizer", "adam"]
    said = run_command("train_head", "--store", two_classes.path, "--run", run, *options, "--json")
    assert said.status == 0, said.stderr
    metrics = json.loads(said.stdout)
    assert said.stdout.count("\n") == 1
    keys = {"solver", "epochs", "seconds", "train_accuracy", "val_accuracy", "val_loss", "classes"}
    assert keys <= set(metrics)
    assert (metrics["epochs"], metrics["classes"]) == (2, ["cats", "dogs"])
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert "train: 2/2 epochs" in said.stderr
    assert "23 training and 8 validation pictures" in said.stderr
    assert "guessing the largest class: 0.5000" in said.stderr
    again = run_command("train_head", "--store", two_classes.path, "--run", run, *options, "--json")
    assert (again.status, again.imported) == (0, "")
    assert json.loads(again.stdout) == metrics


def test_predict_command_with_a_bad_picture_exits_1_after_one_json_object(tiny_three: Path, tmp_path: Path) -> None:
    fill_folder(tmp_path, {"cats": 1, "dogs": 1})
    (tmp_path / "owls").mkdir()
    (tmp_path / "owls/o.png").write_bytes(encode(draw_picture("owls", 0)))
    (tmp_path / "owls/bad.png").write_bytes(b"")
    said = run_command("train_head.predict", "--model", tiny_three, tmp_path, "--json", "-q")
    assert said.status == 1
    result = json.loads(said.stdout)
    assert [p["label"] for p in result["predictions"]] == ["cats", "dogs", "owls"]
    assert result["failed"] == [{"image": str(tmp_path / "owls/bad.png"), "reason": "an empty file"}]
    assert result["accuracy"] == 1.0
    assert said.stderr == ""
