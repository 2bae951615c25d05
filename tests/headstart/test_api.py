"""The Python API, from a folder of pictures to predictions."""

from __future__ import annotations

import inspect
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import headstart as hs
from base.version import find_version
from tests.errors import raises
from tests.headstart.conftest import EXTRACTION
from tests.pictures import fill_folder
from train_head.runs.read import Run

ROOT = Path(__file__).parents[2]
HEAD: dict[str, Any] = {"epochs": 2, "units": 8}


@pytest.fixture(scope="session")
def trained(early_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run with a report, not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    store = hs.open_store(shutil.copytree(early_store, folder / "store"))
    return hs.train(store, folder / "run", **HEAD)


@pytest.fixture(scope="session")
def model(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Export of `trained`, not to be changed."""
    return hs.export(trained, tmp_path_factory.mktemp("exported") / "model")


def test_extract_returns_the_store_that_open_store_opens(pictures: Path, tmp_path: Path) -> None:
    store = hs.extract(pictures, tmp_path / "new", **EXTRACTION)
    assert (len(store), store.classes) == (36, ["cats", "dogs"])
    assert hs.open_store(tmp_path / "new").paths() == store.paths()


def test_extract_with_a_preset_sets_the_options_that_are_not_given(pictures: Path, tmp_path: Path) -> None:
    store = hs.extract(pictures, tmp_path / "new", **EXTRACTION, preset="small")
    assert (store.feature_shape, store.fingerprint.image_size, store.fingerprint.cut) == ((256,), 75, "mixed0")


def test_extract_of_several_pooled_layers_returns_them_as_one_feature_to_train_on(
    pictures: Path, tmp_path: Path
) -> None:
    store = hs.extract(pictures, tmp_path / "new", **(EXTRACTION | {"cut": "mixed0,mixed1"}), pool="avg")
    assert store.feature_shape == (256 + 288,)
    run = hs.train(store, tmp_path / "run", solver="ridge", no_report=True)
    assert run.options["cut"] == "mixed0,mixed1"


def test_advise_returns_the_comparisons_of_a_store(early_store: Path) -> None:
    advice = hs.advise(hs.open_store(early_store), seed=1)
    assert [row.setting.name for row in advice.comparisons[0].rows] == ["mixed0", "mixed0, avg"]
    assert "mixed0, avg" in str(advice)
    with raises(hs.errors.UsageError, where="store"):
        hs.advise()


def test_extract_of_an_unreadable_picture_warns_and_prints_nothing(
    pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (pictures / "train/cats/broken.jpg").write_bytes(b"no picture")
    with pytest.warns(hs.errors.HeadstartWarning, match=r"broken\.jpg") as caught:
        store = hs.extract(pictures, tmp_path / "new", **EXTRACTION, max_bad=0.1)
    assert {Path(warning.filename) for warning in caught} == {Path(__file__)}
    assert len(store) == 36
    assert capfd.readouterr() == ("", "")


def test_extract_with_strict_stops_at_an_unreadable_picture(pictures: Path, tmp_path: Path) -> None:
    (pictures / "train/cats/broken.jpg").write_bytes(b"no picture")
    with pytest.raises(hs.HeadstartError, match=r"broken\.jpg"):
        hs.extract(pictures, tmp_path / "new", **EXTRACTION, strict=True)


def test_train_returns_the_run_with_metrics_history_and_report(trained: Any) -> None:
    assert trained.metrics["num_validation"] == 12
    assert len(trained.history) == 2
    assert trained.report_path.is_file()


def test_train_of_the_same_options_returns_the_existing_run(trained: Any) -> None:
    before = (trained.folder / "run.json").read_bytes()
    again = hs.train(trained.open_store(), trained.folder, **HEAD)
    assert (again.folder / "run.json").read_bytes() == before


def test_report_returns_the_path_of_the_report(trained: Any, tmp_path: Path) -> None:
    shutil.copytree(trained.folder, tmp_path / "run")
    (tmp_path / "run/report.html").unlink()
    assert hs.report(tmp_path / "run").path == tmp_path / "run/report.html"
    assert (tmp_path / "run/report.html").is_file()


def test_train_calls_the_progress_function_and_prints_nothing(
    store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    received: list[tuple[str, int, int, float]] = []
    hs.train(store, tmp_path / "run", **HEAD, no_report=True, progress=lambda *values: received.append(values))
    assert [type(value) for value in received[-1]] == [str, int, int, float]
    assert received[-1][1] == received[-1][2]
    assert capfd.readouterr() == ("", "")


def test_train_with_progress_prints_on_stderr(store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hs.train(store, tmp_path / "run", **HEAD, no_report=True, progress=True)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err


def test_train_on_a_store_opened_with_pool_uses_the_means(store: Path, tmp_path: Path) -> None:
    run = hs.train(hs.open_store(store, pool="avg"), tmp_path / "run", **HEAD, no_report=True)
    assert run.options["pool"] == "avg"
    assert run.head.input_kernel.shape[0] <= 256


@pytest.mark.filterwarnings("ignore::base.errors.HeadstartWarning")
def test_sweep_fits_every_value_of_a_list_and_keeps_the_best(store: Path, tmp_path: Path) -> None:
    table = hs.sweep(store, tmp_path / "sweep", dropout=[0, 0.5], tries=["l2=0,0.1"], **HEAD)
    heads = [(row["dropout"], row["l2"]) for row in table.rows if row.get("dropout") is not None]
    assert sorted((float(dropout), float(l2)) for dropout, l2 in heads) == [(0, 0), (0, 0.1), (0.5, 0), (0.5, 0.1)]
    # The first row with a run is the best head, which may be a baseline.
    kept = next(row for row in table.rows if row["run"])
    assert Run(tmp_path / "sweep" / str(kept["run"])).record.head == table.best.record.head


def test_export_after_the_store_changed_gives_the_same_probabilities(
    pictures: Path, store: Path, tmp_path: Path
) -> None:
    hs.extract(pictures, store, **EXTRACTION)
    run = hs.train(store, tmp_path / "run", **HEAD, solver="reduced", no_report=True)
    asked = shutil.copytree(pictures / "validation", tmp_path / "asked")
    hs.export(run, tmp_path / "before")
    before = hs.predict(tmp_path / "before/model.keras", asked)

    fill_folder(pictures, {"train/cats": 3, "train/dogs": 2}, start=50)
    (pictures / "train/cats/000.jpg").unlink()
    (pictures / "train/cats/001.jpg").rename(pictures / "train/dogs/relabelled.jpg")
    hs.extract(pictures, store, **EXTRACTION)
    shutil.rmtree(store / "derived")
    hs.train(store, tmp_path / "run2", **HEAD, no_report=True)

    exported = hs.export(tmp_path / "run", tmp_path / "after")
    after = hs.predict(exported.files[0], asked)
    assert [each.image for each in before] == [each.image for each in after]
    differences = [abs(b.probability - a.probability) for b, a in zip(before, after, strict=True)]
    assert max(differences) < 1e-4


def test_export_result_loads_a_model_of_pictures_of_any_size(model: Any) -> None:
    images = np.stack([np.full((40, 30, 3), value, np.float32) for value in (0, 255)])
    assert model.load().predict(images, verbose=0).shape == (2, 1)


def test_export_and_report_of_a_run_that_was_replaced_are_refused(store: Path, tmp_path: Path) -> None:
    earlier = hs.train(store, tmp_path / "run", **HEAD, no_report=True)
    hs.train(store, tmp_path / "run", epochs=1, units=4, no_report=True)
    with raises(hs.HeadstartError, where=tmp_path / "run"):
        hs.export(earlier, tmp_path / "model")
    with raises(hs.HeadstartError, where=tmp_path / "run"):
        hs.report(earlier)
    assert "Run(" in earlier._repr_html_()


def test_predict_lists_pictures_that_cannot_be_decoded(model: Any, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.warns(hs.errors.HeadstartWarning, match=r"broken\.jpg") as caught:
        found = hs.predict(model, [pictures / "validation/cats/100.jpg", tmp_path / "broken.jpg"])
    assert [Path(warning.filename) for warning in caught] == [Path(__file__)]
    assert [each.image.name for each in found] == ["100.jpg"]
    assert sum(found[0].probabilities.values()) == pytest.approx(1, abs=1e-6)
    assert [str(file.image) for file in found.failed] == [str(tmp_path / "broken.jpg")]


def test_run_predict_proba_gives_the_validation_accuracy(trained: Any) -> None:
    store = trained.open_store()
    features, targets = store.to_numpy(split="validation")
    probabilities = trained.predict_proba(features)
    assert probabilities.shape == (12, 2)
    assert (probabilities.argmax(1) == targets).mean() == pytest.approx(trained.metrics["val_accuracy"])


@pytest.mark.parametrize("pool", ["none", "avg"])
def test_open_store_returns_a_store_that_pickles(store: Path, pool: str) -> None:
    opened = hs.open_store(store, pool=pool)
    again = pickle.loads(pickle.dumps(opened))
    np.testing.assert_array_equal(again.to_numpy()[0], opened.to_numpy()[0])


@pytest.mark.unit
@pytest.mark.parametrize("path", [None, "", 3])
def test_open_store_with_an_invalid_path_is_a_usage_error(path: Any) -> None:
    with raises(hs.errors.UsageError, where="path", got=repr(path)):
        hs.open_store(path)


@pytest.mark.unit
def test_open_store_of_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with raises(hs.errors.StoreMissingError, where=tmp_path / "absent"):
        hs.open_store(tmp_path / "absent")


@pytest.mark.unit
def test_open_store_with_an_invalid_pool_is_a_usage_error(tmp_path: Path) -> None:
    with raises(hs.errors.UsageError, got="'mean'"):
        hs.open_store(tmp_path, pool="mean")


@pytest.mark.unit
@pytest.mark.parametrize("values", [[], [None, 0.2], [[0.1]]])
def test_sweep_with_an_invalid_list_is_a_usage_error(values: list[Any], tmp_path: Path) -> None:
    with raises(hs.errors.UsageError, where="dropout", got=repr(values)):
        hs.sweep(tmp_path / "absent", tmp_path / "sweep", dropout=values)


@pytest.mark.unit
@pytest.mark.parametrize("files", [[], 5, b"a.jpg", np.zeros((2, 2, 3))])
def test_predict_with_invalid_files_is_a_usage_error(files: Any, tmp_path: Path) -> None:
    with raises(hs.errors.UsageError, where="files"):
        hs.predict(tmp_path / "model.keras", files)


@pytest.mark.unit
@pytest.mark.parametrize("function", [hs.train, hs.sweep])
def test_unknown_keyword_is_a_type_error_with_the_nearest_name(function: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="dropuot.*dropout"):
        function(tmp_path / "absent", tmp_path / "out", dropuot=0.5)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "value"), [("dropout", 1.5), ("solver", "fastest"), ("epochs", "ten"), ("progress", 3)]
)
def test_invalid_value_is_a_usage_error_with_the_value(name: str, value: object, tmp_path: Path) -> None:
    options: Any = {name: value}
    with raises(hs.errors.UsageError, where=name, got=repr(value)):
        hs.train(tmp_path / "absent", tmp_path / "run", **options)


@pytest.mark.unit
def test_another_keras_backend_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keras = SimpleNamespace(config=SimpleNamespace(backend=lambda: "torch"))
    monkeypatch.setitem(sys.modules, "keras", keras)
    with raises(hs.errors.UsageError, where="keras", got="torch"):
        hs.train(tmp_path / "absent", tmp_path / "run")


@pytest.mark.unit
@pytest.mark.parametrize("function", [hs.extract, hs.train, hs.sweep, hs.export, hs.predict, hs.suggest, hs.report])
def test_docstring_describes_every_parameter(function: Callable[..., Any]) -> None:
    lines = (inspect.getdoc(function) or "").splitlines()
    described = [line.split(":")[0].strip() for line in lines if line.startswith("    ") and ": " in line]
    assert set(inspect.signature(function).parameters) <= set(described)


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip()


def test_import_loads_neither_tensorflow_nor_numpy() -> None:
    code = "import sys, headstart; print([m for m in ('numpy', 'tensorflow', 'typer') if m in sys.modules])"
    assert run_python(code) == "[]"


def test_open_store_loads_no_tensorflow(early_store: Path) -> None:
    code = f"import sys, headstart as hs; len(hs.open_store({str(early_store)!r})); print('tensorflow' in sys.modules)"
    assert run_python(code) == "False"


@pytest.mark.unit
def test_dir_lists_the_public_names() -> None:
    assert all(getattr(hs, name) is not None for name in dir(hs))
    with pytest.raises(AttributeError):
        getattr(hs, "absent")  # noqa: B009


@pytest.mark.unit
def test_help_lists_the_choices_of_an_option_in_short_lines() -> None:
    lines = (inspect.getdoc(hs.train) or "").splitlines()
    text = " ".join(" ".join(lines).split())
    for choice in ("rmsprop", "adam", "sgd", "course", "accurate", "balanced", "ridge"):
        assert repr(choice) in text
    assert max(map(len, lines)) <= 120
    assert "<" not in str(inspect.signature(hs.train))
    assert hs.__version__ == find_version("headstart")
