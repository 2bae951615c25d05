"""The command `demo`: three commands in one process, on small pictures and with a small backbone."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from base.errors import UsageError
from base.urls import UrlPath, parse_location
from headstart import demo
from headstart.demo import DemoConfig, plan_demo
from tests.backbones import use_small_backbone
from tests.commands import CommandResult, run_command
from tests.errors import raises
from tests.pictures import fill_folder
from train_head.predict.list import list_pictures

SMALL = ["--images", "my pictures", "--out", "out", "--weights", "random"]
SMALL += ["--extract", "--image-size 75", "--train", "--epochs 2 --units 8"]


def run(*arguments: object) -> CommandResult:
    return run_command("headstart.demo", *arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Working folder with `my pictures`, in which demos use a small backbone."""
    folder = tmp_path_factory.mktemp("demo")
    fill_folder(folder / "my pictures", {"cats": 9, "dogs": 9})
    with pytest.MonkeyPatch.context() as patch, use_small_backbone():
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def first(folder: Path) -> CommandResult:
    return run(*SMALL, "--json")


def test_demo_writes_store_run_report_and_model(first: CommandResult, folder: Path) -> None:
    assert first.status == 0, first.err
    paths = {name: first.json[name] for name in ("run", "model", "report")}
    assert paths == {"run": "out/run", "model": "out/model", "report": "out/run/report.html"}
    assert (folder / "out/model/model.keras").is_file()
    assert (folder / "out/run/report.html").as_uri() in first.err
    assert first.json["extract"]["computed"] == 18
    assert first.json["train"]["epochs"] == 2
    assert first.json["export"]["num_pictures"] == 3


def test_demo_prints_a_command_that_classifies_a_picture(first: CommandResult) -> None:
    _, _, line = first.err.splitlines()[-1].partition(": ")
    words = shlex.split(line)
    assert "predict" in words[: words.index("--model")][-1]
    assert run_command("train_head.predict.__main__", *words[words.index("--model") :]).status == 0


def test_demo_again_keeps_everything(first: CommandResult, folder: Path) -> None:
    written = {path: path.stat().st_mtime_ns for path in folder.glob("out/*/*.*")}
    again = run(*SMALL, "--json")
    assert again.status == 0, again.err
    assert (again.json["extract"]["computed"], again.json["train"]) == (0, first.json["train"])
    assert again.json["export"]["accuracy"] == first.json["export"]["accuracy"]
    assert {path: path.stat().st_mtime_ns for path in written} == written


@pytest.mark.unit
def test_plan_passes_the_output_of_each_command_to_the_next() -> None:
    plan = plan_demo(DemoConfig(out=Path("out"), extract="--store s", train="--run 'a b' --dropout 0.5"))
    assert (plan.extract.images, plan.extract.store) == (demo.SOLAR_CELLS, Path("s"))
    assert (plan.train.store, plan.train.run, plan.train.dropout) == (Path("s"), Path("a b"), 0.5)
    assert (plan.export.run, plan.export.out) == (Path("a b"), Path("out/model"))
    assert plan.arguments["export"] == ["--run", "a b", "--out", "out/model"]
    assert plan_demo(DemoConfig(images=Path("pics"))).extract.store == Path("work/pics/store")
    assert plan_demo(DemoConfig(images=Path())).extract.store == Path("work", Path.cwd().name, "store")


@pytest.mark.unit
def test_plan_keeps_credentials_and_does_not_show_them() -> None:
    url = "https://anna:secret@example.org/pictures"
    plan = plan_demo(DemoConfig(images=parse_location(url)))
    assert isinstance(plan.train.images, UrlPath)
    assert plan.train.images.full == url
    assert "secret" not in str(plan.arguments)


@pytest.mark.unit
def test_example_of_the_demo_can_be_classified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fill_folder(Path("pictures"), {"cats": 1})
    (picture,) = (str(path.relative_to("pictures")) for path in Path("pictures").rglob("*.*"))
    shutil.make_archive("packed", "zip", "pictures")
    for images in map(Path, ("pictures", "packed.zip")):
        (found,), _ = list_pictures([demo.locate_example(images, picture)])
        assert picture in found


@pytest.mark.unit
def test_plan_passes_weights_to_every_command() -> None:
    plan = plan_demo(DemoConfig(weights="w.h5"))
    assert [plan.extract.weights, plan.train.weights, plan.export.weights] == ["w.h5"] * 3
    assert plan_demo(DemoConfig()).train.weights == ""


@pytest.mark.unit
@pytest.mark.parametrize(
    ("config", "where"),
    [
        (DemoConfig(train="--dropuot 0.5"), "--dropuot"),
        (DemoConfig(extract="--image-size big"), "--image-size"),
        (DemoConfig(export="--formats 'keras"), "--export"),
    ],
)
def test_plan_with_an_invalid_option_of_a_command_is_refused(config: DemoConfig, where: str) -> None:
    with raises(UsageError, where=where):
        plan_demo(config)


@pytest.mark.unit
def test_demo_without_the_package_of_its_pictures_prints_the_command_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("extract.demo_data.find_spec", lambda name: None)
    done = run("--json")
    assert (done.status, done.json["where"]) == (1, "elpv-dataset")
    assert "-m pip install elpv-dataset" in done.json["advice"]
    assert list(tmp_path.iterdir()) == []
