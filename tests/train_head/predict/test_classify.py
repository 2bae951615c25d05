"""Pictures are loaded ahead and classified in batches, in their order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import HeadstartError, UsageError
from base.terminal import Console
from extract.decoding.decode import DEFAULT_POLICY
from tests.commands import run_command
from tests.errors import raises
from tests.pictures import fill_folder
from tests.train_head.predict.fake import classify_colours, make_card, make_model
from train_head.export.outputs import Outputs
from train_head.predict.classify import Classifier
from train_head.predict.config import PredictConfig, RowFormat
from train_head.predict.run import predict_pictures

pytestmark = pytest.mark.unit

UseModel = Callable[..., Path]
COMMAND = "train_head.predict.__main__"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder of 3 cats, 3 dogs and 3 owls, one of which is damaged."""
    fill_folder(tmp_path / "in", {"cats": 3, "dogs": 3, "owls": 3})
    (tmp_path / "in/dogs/001.jpg").write_bytes(b"")
    return tmp_path / "in"


@pytest.mark.parametrize("batch_size", [0, 1, 2, 5])
def test_predict_pictures_in_batches_keeps_the_order(
    folder: Path, use_model: UseModel, quiet: Console, batch_size: int
) -> None:
    sizes: list[int] = []

    def run(images: NDArray[np.float32]) -> Outputs:
        sizes.append(len(images))
        return classify_colours(images)

    found = predict_pictures(PredictConfig([folder], use_model(run=run), batch_size), quiet)
    assert [p.image for p in found] == sorted(set(folder.rglob("*.jpg")) - {folder / "dogs/001.jpg"})
    assert [p.label for p in found] == ["cats"] * 3 + ["dogs"] * 2 + ["owls"] * 3
    assert [file.image for file in found.failed] == [folder / "dogs/001.jpg"]
    assert sum(sizes) == 8
    assert max(sizes) <= (batch_size or 9)


def test_classifier_loads_a_few_batches_ahead_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_folder(tmp_path, {"cats": 1})
    loaded: list[Path] = []

    def read(path: Path, max_pixels: int) -> bytes:
        loaded.append(path)
        return path.read_bytes()

    monkeypatch.setattr("train_head.predict.classify.read_picture", read)
    model = make_model(tmp_path, make_card())
    batches = Classifier(model, PredictConfig([], tmp_path, 2), DEFAULT_POLICY).classify(
        [str(tmp_path / "cats/000.jpg")] * 1000
    )
    first = next(batches)
    batches.close()
    assert len(first.predictions) == 2
    assert len(loaded) < 100


def test_predict_pictures_of_a_model_that_fails_is_an_error_that_names_it(
    folder: Path, use_model: UseModel, quiet: Console
) -> None:
    def run(images: NDArray[np.float32]) -> Outputs:
        raise RuntimeError("out of memory")

    model = use_model(run=run)
    with raises(HeadstartError, where=model) as caught:
        predict_pictures(PredictConfig([folder], model), quiet)
    assert "out of memory" in caught.value.got
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]


def test_predict_counts_the_training_pictures_apart(folder: Path, use_model: UseModel) -> None:
    training = [folder / "cats/000.jpg", folder / "cats/001.jpg", folder / "owls/002.jpg"]
    (folder / "owls/002.jpg").rename(folder / "dogs/owl.jpg")
    model = use_model(training=[*training[:2], folder / "dogs/owl.jpg"])
    result = run_command(COMMAND, "--model", model, folder, "--json", "-q").json
    assert (result["accuracy"], result["num_accuracy"]) == (1.0, 5)
    assert (result["training_accuracy"], result["num_training"]) == (2 / 3, 3)


def test_predict_unsure_marks_small_margins(folder: Path, use_model: UseModel, quiet: Console) -> None:
    margins = [p.margin for p in predict_pictures(PredictConfig([folder], use_model()), quiet)]
    limit = sorted(margins)[4]
    found = predict_pictures(PredictConfig([folder], use_model(), unsure=limit), quiet)
    assert [p.is_unsure for p in found] == [margin < limit for margin in margins]
    assert sum(p.is_unsure for p in found) == 4
    assert all(("unsure" in p.describe()) == p.is_unsure for p in found)


def test_predict_least_sure_first_sorts_by_margin(folder: Path, use_model: UseModel, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    options = ["--least-sure-first", "--out", out, "--json"]
    result = run_command(COMMAND, "--model", use_model(), folder, *options).json
    margins = [found["margin"] for found in result["predictions"]]
    assert margins == sorted(margins)
    assert len(margins) == len(out.read_bytes().splitlines()) == 8


@pytest.mark.parametrize("top", [1, 2, 5])
def test_predict_top_sets_the_number_of_classes_in_the_table(folder: Path, use_model: UseModel, top: int) -> None:
    result = run_command(COMMAND, "--model", use_model(), folder / "cats/000.jpg", "--top", top)
    (line,) = (line for line in result.out.splitlines() if "000.jpg" in line)
    assert result.status == 0
    assert [line.count(label) for label in ("cats 0.", "dogs 0.", "owls 0.")].count(1) == min(top, 3)


@pytest.mark.parametrize("row_format", ["csv", "jsonl"])
def test_predict_lines_on_stdout_are_all_that_is_there(folder: Path, use_model: UseModel, row_format: str) -> None:
    result = run_command(COMMAND, "--model", use_model(), folder, "--output-format", row_format)
    assert result.status == 1
    assert len(result.out.splitlines()) == 8 + (row_format == "csv")
    assert all(".jpg" in line for line in result.out.splitlines()[row_format == "csv" :])
    assert "dogs/001.jpg" in result.err


def test_predict_lines_and_json_on_stdout_is_a_usage_error(folder: Path, use_model: UseModel) -> None:
    result = run_command(COMMAND, "--model", use_model(), folder, "--output-format", "csv", "--json")
    assert (result.status, result.json["type"]) == (2, "UsageError")


def test_predict_pictures_with_lines_but_no_file_is_a_usage_error(
    folder: Path, use_model: UseModel, quiet: Console
) -> None:
    with raises(UsageError, where="output_format"):
        predict_pictures(PredictConfig([folder], use_model(), output_format=RowFormat.CSV), quiet)


def test_predict_sort_into_links_the_pictures(folder: Path, use_model: UseModel, tmp_path: Path) -> None:
    result = run_command(COMMAND, "--model", use_model(), folder, "--sort-into", tmp_path / "out", "-q")
    assert result.status == 1
    assert (
        sorted(path.parent.name for path in (tmp_path / "out").glob("*/*.jpg"))
        == ["cats"] * 3 + ["dogs"] * 2 + ["owls"] * 3
    )


@pytest.mark.parametrize(
    ("content", "num_warnings"),
    [(b"cats\ndogs\nowls\n", 0), (None, 0), (b"cats\ndogs\nbirds\n", 1), (b"cats\ndogs\nowls\nbirds\n", 1)],
)
def test_predict_with_an_edited_labels_file_warns(
    folder: Path, use_model: UseModel, content: bytes | None, num_warnings: int
) -> None:
    model = use_model()
    if content is not None:
        (model.parent / "labels.txt").write_bytes(content)
    result = run_command(COMMAND, "--model", model, folder / "owls", "--json")
    assert [found["label"] for found in result.json["predictions"]] == ["owls"] * 3
    assert len([text for text in result.warnings if str(model.parent / "labels.txt") in text]) == num_warnings
