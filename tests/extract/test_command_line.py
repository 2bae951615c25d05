"""`python -m extract` from outside: exit status, what goes where, and how soon a mistake is answered."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from base.terminal import Console
from extract.config import ExtractConfig
from extract.run import extract_features
from features.store import FeatureStore
from tests.features.stores import fill_store
from tests.pictures import fill_folder

ROOT = Path(__file__).parents[2]
SMALL = ["--image-size", "75", "--cut", "mixed0", "--weights", "random"]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str
    modules: frozenset[str]
    """What Python imported, where that was asked for."""

    @property
    def error(self) -> str:
        """The line on stderr that says what is wrong."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return line.removeprefix("error: ")


def start(*arguments: str, trace_imports: bool = False) -> subprocess.Popen[str]:
    options = ["-X", "importtime"] if trace_imports else []
    return subprocess.Popen(
        [sys.executable, *options, "-m", "extract", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
    )


def finish(process: subprocess.Popen[str]) -> Done:
    with process:
        out, err = process.communicate(timeout=120)
    imported = re.compile(r"^import time:\s+\d+ \|\s+\d+ \|\s+(\S+)$")
    lines = [(line, imported.match(line)) for line in err.splitlines()]
    said = "".join(f"{line}\n" for line, found in lines if not found and not line.startswith("import time:"))
    return Done(process.returncode, out, said, frozenset(found[1] for _, found in lines if found))


def assert_answered_at_once(done: Done) -> None:
    assert {"extract.config", "base.command_line"} <= done.modules, "the imports were traced"
    assert not {"tensorflow", "keras"} & done.modules


@dataclass(frozen=True)
class Runs:
    """Three commands that need TensorFlow, run side by side."""

    pictures: Path
    store: Path
    extract: Done
    summary: Done
    dry_run: Done


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("commands")
    pictures, store = folder / "pictures", folder / "store"
    fill_folder(pictures, {"cats": 5, "dogs": 5})
    (pictures / "dogs/002.jpg").write_bytes(b"<html>")
    images = ["--images", str(pictures), "--json"]
    processes = [
        start(*images, "--store", str(store), *SMALL),
        start("summary", "--json", "--image-size", "75", "--cut", "mixed5"),
        start(*images, "--store", str(folder / "no store"), "--dry-run", "--batch-size", "2", *SMALL),
    ]
    return Runs(pictures, store, *(finish(process) for process in processes))


def test_help_lists_every_option_and_does_not_import_tensorflow() -> None:
    done = finish(start("--help", trace_imports=True))
    assert (done.status, done.err) == (0, "")
    names = ["images", "store", "weights", "cut", "image-size", "batch-size", "threads", "strict", "rehash"]
    names += ["max-bad", "max-pixels", "weights-sha256"]
    names += ["pool", "views", "view-seed", "engine", "precision", "compression"]
    for name in [*names, "dry-run", "json", "quiet", "verbose", "help"]:
        assert f"--{name} " in done.out
    assert "python -m extract summary" in done.out
    assert_answered_at_once(done)


def test_misspelt_option_exits_2_and_names_it_at_once() -> None:
    done = finish(start("--imagse", "here", "--store", "there", trace_imports=True))
    assert (done.status, done.out) == (2, "")
    assert "--imagse" in done.err
    assert_answered_at_once(done)


def test_missing_folder_exits_2_and_says_expected_got_and_what_to_do(tmp_path: Path) -> None:
    done = finish(start("--images", str(tmp_path / "nowhere"), "--store", str(tmp_path / "store"), trace_imports=True))
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"error: {tmp_path}/nowhere: ")
    assert not (tmp_path / "store").exists()
    assert_answered_at_once(done)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--cut", "mixd7", "--cut: expected a layer of InceptionV3, got 'mixd7'. Did you mean mixed7"),
        ("--cut", "mixed5,mixd7", "--cut: expected a layer of InceptionV3, got 'mixd7'. Did you mean mixed7"),
        ("--cut", "mixed0,mixed0", "--cut: expected different layers, got mixed0,mixed0. Name each once"),
        (
            "--weights",
            "imagnet",
            "--weights imagnet: expected auto, imagenet, nsfwjs, random or a weights file",
        ),
        ("--image-size", "20", "--image-size: expected 75 to 1024 pixels, got 20. "),
    ],
)
def test_wrong_value_exits_2_at_once_and_prints_the_error_as_json(
    option: str, value: str, told: str, tmp_path: Path
) -> None:
    fill_folder(tmp_path / "pictures", {"cats": 1, "dogs": 1})
    folders = ["--images", str(tmp_path / "pictures"), "--store", str(tmp_path / "store")]
    done = finish(start(*folders, option, value, "--json", trace_imports=True))
    assert done.status == 2
    assert done.error.startswith(told)
    assert json.loads(done.out)["error"] == done.error
    assert not (tmp_path / "store").exists()
    assert_answered_at_once(done)


def test_json_prints_one_object_alone_on_stdout_with_the_promised_keys(runs: Runs) -> None:
    (line,) = runs.extract.out.splitlines()
    assert {
        "images",
        "computed",
        "reused",
        "failed",
        "seconds",
        "images_per_second",
        "fingerprint",
        "weights",
    } <= json.loads(line).keys()
    assert "10 pictures (5 cats, 5 dogs)" in runs.extract.err


def test_bad_picture_exits_0_and_is_listed_with_its_reason(runs: Runs) -> None:
    result = json.loads(runs.extract.out)
    assert runs.extract.status == 0
    assert (result["images"], result["computed"], result["reused"]) == (10, 9, 0)
    reason = "a web page or XML file"
    assert result["failed"] == [{"image": "dogs/002.jpg", "reason": reason}]
    assert "dogs/002.jpg" in runs.extract.err
    assert reason in runs.extract.err


def test_json_names_weights_and_the_stores_fingerprint_and_rate(runs: Runs) -> None:
    result = json.loads(runs.extract.out)
    assert result["weights"] == "random"
    assert result["fingerprint"] == FeatureStore(runs.store).fingerprint.digest
    assert result["images_per_second"] > 0
    assert result["seconds"] > 0


def test_summary_json_gives_shape_and_parameters_on_both_sides_of_the_cut(runs: Runs) -> None:
    assert runs.summary.status == 0
    (line,) = runs.summary.out.splitlines()
    result = json.loads(line)
    assert (result["cut"], result["output_shape"]) == ("mixed5", [3, 3, 768])
    assert result["parameters_before"] + result["parameters_after"] == 21_802_784
    assert result["parameters_before"] == sum(
        layer["num_parameters"] for layer in result["layers"] if layer["in_prefix"]
    )
    assert len(result["layers"]) == 311
    assert result["layers"][1]["name"] == "conv2d"
    assert "<== cut" in next(line for line in runs.summary.err.splitlines() if " mixed5 " in line)


def test_dry_run_foretells_and_leaves_no_store_behind(runs: Runs) -> None:
    assert runs.dry_run.status == 0
    (line,) = runs.dry_run.out.splitlines()
    result = json.loads(line)
    assert (result["images"], result["to_read"], result["reused"]) == (10, 10, 0)
    assert result["classes"] == {"": {"cats": 5, "dogs": 5}}
    assert not (runs.store.parent / "no store").exists()


def test_several_cuts_into_a_store_of_one_exit_1_at_once_and_leave_it_as_it_was(tmp_path: Path) -> None:
    fill_folder(tmp_path / "pictures", {"cats": 1, "dogs": 1})
    fill_store(tmp_path / "store", range(2))
    before = {path: path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()}
    folders = ["--images", str(tmp_path / "pictures"), "--store", str(tmp_path / "store")]
    done = finish(start(*folders, "--cut", "mixed0,mixed1", trace_imports=True))
    assert (done.status, done.out) == (1, "")
    assert done.error.startswith(f"{tmp_path / 'store'}: ")
    assert {path: path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()} == before
    assert_answered_at_once(done)


def test_views_and_cuts_from_the_command_line_make_a_store_for_each_cut(tmp_path: Path) -> None:
    fill_folder(tmp_path / "pictures", {"train/cats": 2, "train/dogs": 2})
    fill_folder(tmp_path / "pictures", {"validation/cats": 1, "validation/dogs": 1}, start=50)
    folders = ["--images", str(tmp_path / "pictures"), "--store", str(tmp_path / "stores")]
    options = [*SMALL, "--cut", "mixed0,mixed1", "--views", "3", "--view-seed", "4", "--engine", "openvino"]
    done = finish(start(*folders, *options, "--json"))
    assert done.status == 0, done.err
    (line,) = done.out.splitlines()
    result = json.loads(line)
    assert (result["images"], result["computed"], result["reused"]) == (6, 6, 0)
    stores = [FeatureStore(tmp_path / "stores" / cut) for cut in ("mixed0", "mixed1")]
    assert result["fingerprint"] == ",".join(store.fingerprint.digest for store in stores)
    for store, shape in zip(stores, [(7, 7, 256), (7, 7, 288)], strict=True):
        assert (store.feature_shape, store.num_views, store.num_features) == (shape, 3, 4 * 3 + 2)
        assert (store.fingerprint.engine, store.fingerprint.views[-6:]) == ("openvino", "seed 4")
        assert store.origin.versions["openvino"] not in ("", "unknown")


def test_run_with_nothing_to_do_from_a_weights_file_does_not_import_tensorflow(
    legacy_file: Path, tmp_path: Path, quiet: Console
) -> None:
    pictures, store = tmp_path / "pictures", tmp_path / "store"
    fill_folder(pictures, {"cats": 2, "dogs": 2})
    config = ExtractConfig(pictures, store, weights=str(legacy_file), image_size=75, cut="conv2d")
    first = extract_features(config, quiet)
    assert first.computed == 4

    options = ["--weights", str(legacy_file), "--image-size", "75", "--cut", "conv2d", "--json", "-q"]
    done = finish(start("--images", str(pictures), "--store", str(store), *options, trace_imports=True))

    result = json.loads(done.out)
    assert (done.status, done.err) == (0, "")
    assert (result["computed"], result["reused"], result["fingerprint"]) == (0, 4, first.fingerprint)
    assert result["weights"] == first.weights
    assert_answered_at_once(done)
