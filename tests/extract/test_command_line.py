"""`python -m extract`: options, exit status, JSON, and arguments that are refused without TensorFlow."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from features.store import FeatureStore
from tests.commands import CommandResult, run_command
from tests.extract.extraction import extract
from tests.features.stores import fill_store
from tests.files import read_files
from tests.pictures import fill_folder

ROOT = Path(__file__).parents[2]
SMALL = ["--image-size", "75", "--cut", "mixed0", "--weights", "random"]
PROGRAM = """
import json, sys
from tests.commands import run_command

for arguments in json.loads(sys.argv[1]):
    result = run_command("extract.__main__", *arguments)
    print(json.dumps([result.status, result.out, result.err]))
print(json.dumps(sorted({"tensorflow", "keras"} & sys.modules.keys())))
"""
"""Run commands in one new process; print the results, and whether TensorFlow was imported."""


def run(*arguments: object) -> CommandResult:
    return run_command("extract.__main__", *arguments)


@dataclass(frozen=True)
class Refused:
    """Arguments of a command that is refused, with the expected error."""

    arguments: Sequence[str]
    error: str
    where: str
    value: str
    """Value that `got` contains."""
    status: int = 2


REFUSED = {
    "missing folder": Refused(["--images", "nowhere", "--store", "new"], "UsageError", "{}/nowhere", ""),
    "cut": Refused(["--cut", "mixd7"], "UsageError", "--cut", "'mixd7'"),
    "second cut": Refused(["--cut", "mixed5,mixd7"], "UsageError", "--cut", "'mixd7'"),
    "cut twice": Refused(["--cut", "mixed0,mixed0"], "UsageError", "--cut", "mixed0,mixed0"),
    "weights": Refused(["--weights", "imagnet"], "UsageError", "--weights imagnet", "no such file"),
    "image size": Refused(["--image-size", "20"], "UsageError", "--image-size", "20"),
    "store of one cut": Refused(["--store", "store", "--cut", "mixed0,mixed1"], "StoreMissingError", "{}/store", "", 1),
}


def list_arguments(refused: Refused, folder: Path) -> list[str]:
    """Return the arguments of a refused command, with folders in `folder`."""
    values = {"--images": "pictures", "--store": "new"} | dict(zip(*[iter(refused.arguments)] * 2, strict=True))
    paths = {name: str(folder / values[name]) for name in ("--images", "--store")}
    return [word for option in (values | paths).items() for word in option] + ["--json"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with four pictures in pictures/ and the store of one cut in store/; must not be changed."""
    folder = tmp_path_factory.mktemp("refused")
    fill_folder(folder / "pictures", {"cats": 2, "dogs": 2})
    fill_store(folder / "store", range(2))
    return folder


@pytest.mark.unit
@pytest.mark.parametrize("name", REFUSED)
def test_extract_with_a_wrong_argument_exits_with_an_error_and_writes_nothing(folder: Path, name: str) -> None:
    refused, before = REFUSED[name], read_files(folder)
    found = run(*list_arguments(refused, folder))
    assert found.status == refused.status
    assert (found.json["type"], found.json["where"]) == (refused.error, refused.where.format(folder))
    assert refused.value in found.json["got"]
    assert found.err == f"error: {found.json['error']}\n"
    assert read_files(folder) == before


@pytest.mark.unit
def test_extract_with_a_misspelt_cut_suggests_the_nearest_layer(folder: Path) -> None:
    assert "mixed7" in run(*list_arguments(REFUSED["cut"], folder)).json["advice"]


@pytest.mark.unit
def test_extract_with_a_misspelt_option_exits_2_and_names_it() -> None:
    found = run("--imagse", "here", "--store", "there")
    assert (found.status, found.out) == (2, "")
    assert "--imagse" in found.err


def test_extract_help_lists_every_option() -> None:
    done = subprocess.run([sys.executable, "-m", "extract", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    names = ["images", "store", "weights", "cut", "image-size", "batch-size", "threads", "strict", "rehash"]
    names += ["max-bad", "max-pixels", "weights-sha256", "classes", "min-pictures"]
    names += ["pool", "views", "view-seed", "engine", "precision", "compression"]
    for name in [*names, "dry-run", "json", "quiet", "verbose", "help"]:
        assert f"--{name} " in done.stdout
    assert "python -m extract summary" in done.stdout


def test_extract_without_work_does_not_import_tensorflow(folder: Path, legacy_file: Path, tmp_path: Path) -> None:
    store, weights = tmp_path / "store", str(legacy_file)
    first = extract(folder / "pictures", store, weights=weights, cut="conv2d")
    assert first.computed == 4
    again = ["--images", str(folder / "pictures"), "--store", str(store), "--weights", weights]
    again += ["--image-size", "75", "--cut", "conv2d", "--json", "-q"]
    dry_run = ["--images", str(folder / "pictures"), "--store", str(tmp_path / "new"), "--dry-run", "--json", "-q"]
    refused_commands = [list_arguments(refused, folder) for refused in REFUSED.values()]
    commands = [["--help"], dry_run, *refused_commands, again]

    program = [sys.executable, "-c", PROGRAM, json.dumps(commands)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True)

    *results, imported = map(json.loads, done.stdout.splitlines())
    assert imported == []
    assert [status for status, *_ in results] == [0, 0, *(refused.status for refused in REFUSED.values()), 0]
    *_, (_, out, err) = results
    found = json.loads(out)
    assert (found["computed"], found["reused"], found["fingerprint"]) == (0, 4, first.fingerprint)
    assert (found["weights"], err) == (first.weights, "")


# Commands that run the backbone.


@dataclass(frozen=True)
class Extracted:
    """Result of `python -m extract` on nine pictures and a web page."""

    store: Path
    command: CommandResult

    @property
    def json(self) -> dict[str, Any]:
        """Object on stdout."""
        return self.command.json


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Extracted:
    folder = tmp_path_factory.mktemp("commands")
    fill_folder(folder / "pictures", {"cats": 5, "dogs": 5})
    (folder / "pictures/dogs/002.jpg").write_bytes(b"<html>")
    paths = ["--images", folder / "pictures", "--store", folder / "store"]
    return Extracted(folder / "store", run(*paths, "--json", *SMALL))


def test_extract_json_has_the_documented_keys(extracted: Extracted) -> None:
    keys = {"images", "computed", "reused", "failed", "seconds", "images_per_second", "fingerprint", "weights"}
    assert keys <= extracted.json.keys()


def test_extract_with_a_bad_picture_exits_0_and_lists_it_with_its_reason(extracted: Extracted) -> None:
    assert extracted.command.status == 0
    assert (extracted.json["images"], extracted.json["computed"], extracted.json["reused"]) == (10, 9, 0)
    (failed,) = extracted.json["failed"]
    assert failed["image"] == "dogs/002.jpg"
    assert "web page" in failed["reason"]
    (warning,) = extracted.command.warnings
    assert failed["image"] in warning
    assert failed["reason"] in warning


def test_extract_json_has_weights_fingerprint_and_rate(extracted: Extracted) -> None:
    assert extracted.json["weights"] == "random"
    assert extracted.json["fingerprint"] == FeatureStore(extracted.store).fingerprint.digest
    assert extracted.json["images_per_second"] > 0
    assert extracted.json["seconds"] > 0


def test_summary_json_has_the_shape_and_the_parameters_before_and_after_the_cut() -> None:
    found = run("summary", "--json", "--image-size", "75", "--cut", "mixed5")
    assert found.status == 0
    result = found.json
    assert (result["cut"], result["output_shape"]) == ("mixed5", [3, 3, 768])
    assert result["parameters_before"] + result["parameters_after"] == 21_802_784
    layers = result["layers"]
    assert result["parameters_before"] == sum(layer["num_parameters"] for layer in layers if layer["in_prefix"])
    assert len(layers) == 311
    assert layers[1]["name"] == "conv2d"
    (marked,) = [line for line in found.err.splitlines() if "<==" in line]
    assert "mixed5" in marked.split()


def test_dry_run_json_has_the_estimate_and_creates_no_store(folder: Path, tmp_path: Path) -> None:
    paths = ["--images", folder / "pictures", "--store", tmp_path / "new"]
    found = run(*paths, "--dry-run", "--json", "--batch-size", "4", *SMALL)
    assert found.status == 0
    assert (found.json["images"], found.json["to_read"], found.json["reused"]) == (4, 4, 0)
    assert found.json["classes"] == {"": {"cats": 2, "dogs": 2}}
    assert found.json["estimated_seconds"] is found.json["images_per_second"] is None
    assert not (tmp_path / "new").exists()


def test_extract_views_and_cuts_writes_a_store_for_each_cut(tmp_path: Path) -> None:
    fill_folder(tmp_path / "pictures", {"train/cats": 2, "train/dogs": 2})
    fill_folder(tmp_path / "pictures", {"validation/cats": 1, "validation/dogs": 1}, start=50)
    paths = ["--images", tmp_path / "pictures", "--store", tmp_path / "stores"]
    options = [*SMALL, "--cut", "mixed0,mixed1", "--views", "3", "--view-seed", "4", "--engine", "openvino"]
    found = run(*paths, *options, "--json")
    assert found.status == 0, found.err
    assert (found.json["images"], found.json["computed"], found.json["reused"]) == (6, 6, 0)
    stores = [FeatureStore(tmp_path / "stores" / cut) for cut in ("mixed0", "mixed1")]
    assert found.json["fingerprint"] == ",".join(store.fingerprint.digest for store in stores)
    for store, shape in zip(stores, [(7, 7, 256), (7, 7, 288)], strict=True):
        assert (store.feature_shape, store.num_views, store.num_features) == (shape, 3, 4 * 3 + 2)
        assert (store.fingerprint.engine, store.fingerprint.views[-6:]) == ("openvino", "seed 4")
        assert store.origin.versions["openvino"] not in ("", "unknown")
