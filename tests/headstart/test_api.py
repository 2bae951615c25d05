"""The Python API, from a folder of pictures to predictions."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as hs
from tests.pictures import fill_folder

ROOT = Path(__file__).parents[2]
HEAD: dict[str, Any] = {"epochs": 2, "units": 8}


@pytest.fixture(scope="module")
def trained(_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("trained")
    store = hs.open_store(shutil.copytree(_store, folder / "store"))
    return hs.train(store, folder / "run", **HEAD)


def test_extract_returns_the_store_that_open_store_opens(pictures: Path, tmp_path: Path) -> None:
    store = hs.extract(pictures, tmp_path / "new", weights="random", image_size=75)
    assert (len(store), store.classes) == (36, ["cats", "dogs"])
    assert hs.open_store(tmp_path / "new").paths() == store.paths()


def test_extract_prints_nothing_and_names_unreadable_pictures_in_a_warning(
    pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (pictures / "train/cats/broken.jpg").write_bytes(b"no picture")
    with pytest.warns(hs.errors.HeadstartWarning, match="broken.jpg") as caught:
        store = hs.extract(pictures, tmp_path / "new", weights="random", image_size=75, max_bad=0.1)
    assert {Path(warning.filename) for warning in caught} == {Path(__file__)}
    assert len(store) == 36
    assert capfd.readouterr() == ("", "")


def test_extract_too_many_unreadable_pictures_is_an_error(pictures: Path, tmp_path: Path) -> None:
    (pictures / "train/cats/broken.jpg").write_bytes(b"no picture")
    with pytest.warns(hs.errors.HeadstartWarning), pytest.raises(hs.HeadstartError, match="broken.jpg"):
        hs.extract(pictures, tmp_path / "new", weights="random", image_size=75, strict=True)


def test_train_returns_the_run_with_its_metrics_and_report(trained: Any) -> None:
    assert trained.metrics["num_validation"] == 12
    assert len(trained.history) == 2
    assert trained.report_path.is_file()
    assert hs.report(trained).path == trained.report_path


def test_train_progress_function_receives_stage_done_total_and_rate(store: Path, tmp_path: Path) -> None:
    received: list[tuple[str, int, int, float]] = []
    hs.train(store, tmp_path / "run", **HEAD, progress=lambda *values: received.append(values))
    assert {type(value) for value in received[-1]} == {str, int, float}
    assert received[-1][1] == received[-1][2]


def test_train_progress_true_prints_on_stderr(store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hs.train(store, tmp_path / "run", **HEAD, progress=True)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "validation accuracy" in printed.err


def test_train_takes_the_mean_where_the_store_was_opened_with_it(store: Path, tmp_path: Path) -> None:
    run = hs.train(hs.open_store(store, pool="avg"), tmp_path / "run", **HEAD)
    assert run.options["pool"] == "avg"
    assert run.head.hidden_kernel.shape[0] <= 768


@pytest.mark.filterwarnings("ignore::base.errors.HeadstartWarning")
def test_sweep_tries_every_value_of_a_list_and_keeps_the_best(store: Path, tmp_path: Path) -> None:
    table = hs.sweep(store, tmp_path / "sweep", dropout=[0, 0.5], **HEAD)
    heads = [row for row in table.rows if row.get("dropout") is not None]
    assert sorted(float(row["dropout"]) for row in heads) == [0.0, 0.5]
    assert table.best.options["dropout"] in (0.0, 0.5)


def test_export_after_pictures_and_labels_changed_gives_the_probabilities_of_before(
    pictures: Path, store: Path, tmp_path: Path
) -> None:
    hs.extract(pictures, store, weights="random", image_size=75)
    run = hs.train(store, tmp_path / "run", **HEAD, solver="reduced")
    asked = shutil.copytree(pictures / "validation", tmp_path / "asked")
    hs.export(run, tmp_path / "before")
    before = hs.predict(tmp_path / "before/model.keras", asked)

    fill_folder(pictures, {"train/cats": 3, "train/dogs": 2}, start=50)
    (pictures / "train/cats/000.jpg").unlink()
    (pictures / "train/cats/001.jpg").rename(pictures / "train/dogs/relabelled.jpg")
    hs.extract(pictures, store, weights="random", image_size=75)
    shutil.rmtree(store / "derived")
    hs.train(store, tmp_path / "run2", **HEAD)

    exported = hs.export(tmp_path / "run", tmp_path / "after")
    after = hs.predict(exported.files[0], asked)
    assert [each.image for each in before] == [each.image for each in after]
    differences = [abs(b.probability - a.probability) for b, a in zip(before, after, strict=True)]
    assert max(differences) < 1e-4
    images = np.stack([np.full((40, 40, 3), value, np.float32) for value in (0, 255)])
    assert exported.load().predict(images, verbose=0).shape == (2, 1)


def test_export_of_a_run_whose_folder_another_run_took_is_refused(store: Path, tmp_path: Path) -> None:
    earlier = hs.train(store, tmp_path / "run", **HEAD)
    hs.train(store, tmp_path / "run", epochs=1, units=4)
    for act in (lambda: hs.export(earlier, tmp_path / "model"), lambda: hs.report(earlier)):
        with pytest.raises(hs.HeadstartError) as raised:
            act()
        assert raised.value.where == tmp_path / "run"
    assert "Run(" in earlier._repr_html_()


@pytest.mark.parametrize("pool", ["none", "avg"])
def test_store_pickles(store: Path, pool: str) -> None:
    opened = hs.open_store(store, pool=pool)
    again = pickle.loads(pickle.dumps(opened))
    np.testing.assert_array_equal(again.to_numpy()[0], opened.to_numpy()[0])


@pytest.mark.parametrize("values", [[], [None, 0.2], [[0.1]]])
def test_sweep_wrong_list_is_a_usage_error(values: list[Any], tmp_path: Path) -> None:
    with pytest.raises(hs.errors.UsageError) as raised:
        hs.sweep(tmp_path / "absent", tmp_path / "sweep", dropout=values)
    assert raised.value.where == "dropout"


@pytest.mark.parametrize("files", [[], 5, b"a.jpg", np.zeros((2, 2, 3))])
def test_predict_wrong_files_are_a_usage_error(files: Any, tmp_path: Path) -> None:
    with pytest.raises(hs.errors.UsageError) as raised:
        hs.predict(tmp_path / "model.keras", files)
    assert raised.value.where == "files"


@pytest.mark.parametrize("path", [None, "", 3])
def test_open_store_wrong_path_is_a_usage_error(path: Any) -> None:
    with pytest.raises(hs.errors.UsageError):
        hs.open_store(path)


def test_predict_lists_pictures_that_cannot_be_decoded(trained: Any, pictures: Path, tmp_path: Path) -> None:
    model = hs.export(trained, tmp_path / "model", images=str(pictures)).files[0]
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.warns(hs.errors.HeadstartWarning, match="broken.jpg"):
        found = hs.predict(model, [pictures / "validation/cats/100.jpg", tmp_path / "broken.jpg"])
    assert [each.image.name for each in found] == ["100.jpg"]
    assert sum(found[0].probabilities.values()) == pytest.approx(1, abs=1e-6)
    assert [str(file.image) for file in found.failed] == [str(tmp_path / "broken.jpg")]


def test_run_predict_proba_gives_the_validation_probabilities(trained: Any) -> None:
    store = trained.open_store()
    features, targets = store.to_numpy(split="validation")
    probabilities = trained.predict_proba(features)
    assert probabilities.shape == (12, 2)
    assert (probabilities.argmax(1) == targets).mean() == pytest.approx(trained.metrics["val_accuracy"])


@pytest.mark.parametrize("function", [hs.train, hs.sweep])
def test_wrong_keyword_is_a_type_error_before_any_work(function: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="dropuot.*dropout"):
        function(tmp_path / "absent", tmp_path / "out", dropuot=0.5)


@pytest.mark.parametrize(
    ("name", "value"), [("dropout", 1.5), ("solver", "fastest"), ("epochs", "ten"), ("progress", 3)]
)
def test_wrong_value_is_a_usage_error_with_the_value(name: str, value: object, tmp_path: Path) -> None:
    options: Any = {name: value}
    with pytest.raises(hs.errors.UsageError) as raised:
        hs.train(tmp_path / "absent", tmp_path / "run", **options)
    assert (raised.value.where, raised.value.got) == (name, repr(value))


def test_open_store_absent_is_a_headstart_error_with_its_fields(tmp_path: Path) -> None:
    with pytest.raises(hs.HeadstartError) as raised:
        hs.open_store(tmp_path / "absent")
    assert str(tmp_path / "absent") in str(raised.value.where)
    assert raised.value.advice


def test_open_store_wrong_pool_is_a_usage_error(store: Path) -> None:
    with pytest.raises(hs.errors.UsageError) as raised:
        hs.open_store(store, pool="mean")
    assert raised.value.got == "'mean'"


def test_import_loads_neither_tensorflow_nor_numpy() -> None:
    code = "import sys, headstart; print([m for m in ('numpy', 'tensorflow', 'typer') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_options_and_open_store_load_no_tensorflow(store: Path) -> None:
    code = f"import sys, headstart as hs; len(hs.open_store({str(store)!r})); print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


def test_dir_lists_what_can_be_imported() -> None:
    assert all(getattr(hs, name) is not None for name in dir(hs))
    with pytest.raises(AttributeError):
        getattr(hs, "absent")  # noqa: B009
