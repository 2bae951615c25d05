"""What make's variables do, on a copy of the Makefile: in the place of Python is a program that keeps its arguments."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHOW = """#!{python}
import json, os, sys
with open("calls", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
sys.exit(int(os.environ.get("STATUS", "0")))
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@dataclass(frozen=True)
class Done:
    """How make ended, and the arguments of each Python that it started."""

    status: int
    out: str
    err: str
    calls: list[list[str]]

    @property
    def call(self) -> list[str]:
        """The only one."""
        (call,) = self.calls
        return call

    def get(self, option: str) -> str | None:
        """The value of an option of the only call; None where it is not given."""
        return self.call[self.call.index(option) + 1] if option in self.call else None


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the Makefile and the program."""
    folder = tmp_path / "check out"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(SHOW.format(python=sys.executable))
    python.chmod(0o755)
    (folder / ".venv/pyvenv.cfg").touch()
    return folder


def make(checkout: Path, *arguments: str, **environment: str) -> Done:
    # A make around these tests hands its own variables on.
    outer = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "GNUMAKE"))}
    done = subprocess.run(
        ["make", "RUNTIME=", "DEV=", *arguments],
        cwd=checkout,
        env=outer | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    calls = checkout / "calls"
    lines = calls.read_text().splitlines() if calls.exists() else []
    calls.unlink(missing_ok=True)
    return Done(done.returncode, done.stdout, done.stderr, [json.loads(line) for line in lines])


def test_unknown_variable_ends_the_command_with_the_nearest_name(checkout: Path) -> None:
    for given, nearest in [("DROPUOT=0.5", "DROPOUT"), ("epochs=3", "EPOCHS"), ("OVERWRITES=1", "OVERWRITE")]:
        done = make(checkout, "train", given)
        assert (done.status, done.calls) == (2, [])
        assert given in done.err
        assert f"Write {nearest}" in done.err


def test_every_documented_variable_is_known(checkout: Path) -> None:
    text = (ROOT / "Makefile").read_text().split("\n\n")[0]
    names = {word.split("=")[0] for word in text.split() if "=" in word and word.split("=")[0].isupper()}
    assert {"DATA", "EPOCHS", "FILES", "CONFIRM", "COMPARE", "PYTHON"} <= names
    for name in sorted(names):
        done = make(checkout, "-n", "train", f"{name}={'yes' if name in ('TEST', 'CONFIRM') else '1'}")
        assert "expected a variable" not in done.err, name


def test_variables_of_the_environment_are_ignored(checkout: Path) -> None:
    names = ["EPOCHS", "SEED", "RANK", "OUT", "DATA", "STORE", "RUN", "WEIGHTS", "OVERWRITE", "ARGS", "NAME", "CUT"]
    environment = dict.fromkeys(names, "7")
    assert make(checkout, "train", **environment).call == make(checkout, "train").call
    assert make(checkout, "export", **environment).call == make(checkout, "export").call


@pytest.mark.parametrize("word", ["0", "no", "No", "NO", "false", "off", "n", ""])
def test_switch_that_is_no_switches_nothing_on(word: str, checkout: Path) -> None:
    switches = [f"{name}={word}" for name in ("OVERWRITE", "TENSORBOARD", "TEST")]
    assert not {"--overwrite", "--tensorboard"} & set(make(checkout, "train", *switches).call)
    assert not {"--overwrite", "--tensorboard"} & set(make(checkout, "sweep", *switches).call)
    assert "--test" not in make(checkout, "report", *switches).call
    assert make(checkout, "clean-all", f"CONFIRM={word}").status == 2


@pytest.mark.parametrize("word", ["1", "yes", "Yes", "true", "on"])
def test_switch_that_is_yes_switches_it_on(word: str, checkout: Path) -> None:
    switches = [f"OVERWRITE={word}", f"TENSORBOARD={word}", "TENSORBOARD_DONE="]
    assert {"--overwrite", "--tensorboard"} <= set(make(checkout, "compare", *switches).call)
    assert "--test" in make(checkout, "report", f"TEST={word}").call


@pytest.mark.parametrize("given", ["OVERWRITE=maybe", "TEST=2", "TENSORBOARD=yes no"])
def test_switch_that_is_neither_ends_the_command(given: str, checkout: Path) -> None:
    done = make(checkout, "train", given)
    assert (done.status, done.calls) == (2, [])
    assert given.split("=")[0] in done.err


@pytest.mark.parametrize("name", ["DATA", "STORE", "RUN", "OUT", "SWEEP", "COMPARE"])
def test_empty_folder_ends_the_command(name: str, checkout: Path) -> None:
    done = make(checkout, "train", f"{name}=")
    assert (done.status, done.calls) == (2, [])
    assert f"{name}: expected a folder, got an empty value" in done.err


def test_weights_reach_every_stage_and_only_where_given(checkout: Path) -> None:
    for target in ("extract", "train", "sweep", "compare", "report", "export"):
        arguments = [target, "DATA=pictures"]
        assert make(checkout, *arguments, "WEIGHTS=my weights.h5").get("--weights") == "my weights.h5"
        assert make(checkout, *arguments).get("--weights") is None
        assert make(checkout, *arguments, "WEIGHTS=auto").get("--weights") is None


def test_data_of_one_last_name_have_folders_of_their_own(checkout: Path) -> None:
    stores = {data: make(checkout, "extract", f"DATA={data}").get("--store") for data in ("a/pics", "b/pics", "pics")}
    assert len(set(stores.values())) == 3
    assert all(store and store.startswith("work/pics-") for store in stores.values())
    same = [make(checkout, "extract", f"DATA={data}").get("--store") for data in ("./pics/", f"{checkout}/pics")]
    assert {*same} == {stores["pics"]}
    assert make(checkout, "train", "DATA=pics").get("--store") == stores["pics"]


def test_demo_names_the_model_and_the_report(checkout: Path) -> None:
    done = make(checkout, "demo", "RUN=my run", "OUT=my model")
    assert done.status == 0
    assert "my model" in done.out
    assert "my run/report.html" in done.out


def test_default_data_keep_their_folder(checkout: Path) -> None:
    assert make(checkout, "train").get("--run") == "work/elpv/run"
    done = make(checkout, "extract", "DATA=./data/elpv/")
    assert [call[1] for call in done.calls] == ["extract.demo_data", "extract"]
    assert "work/elpv/store" in done.calls[1]


def test_folder_of_an_earlier_version_is_named_once_there_is_no_new_one(checkout: Path) -> None:
    (checkout / "work/pics/store").mkdir(parents=True)
    done = make(checkout, "train", "DATA=a/pics")
    store = done.get("--store")
    assert store
    command = done.err.partition("To go on with it: ")[2]
    subprocess.run(command, shell=True, check=True, cwd=checkout)
    assert (checkout / store).is_dir()
    assert "earlier version" not in make(checkout, "train", "DATA=a/pics").err
    assert "earlier version" not in make(checkout, "train").err


def test_values_come_through_as_they_were_given(checkout: Path) -> None:
    for data in ("my pictures", "it's", 'a "b"', "$HOME", "$(DATA)", "a;b", "a&b", "50%", "été"):
        done = make(checkout, "extract", f"DATA={data}", "CUT=mixed5,mixed7")
        assert (done.status, done.get("--images"), done.get("--cut")) == (0, data, "mixed5,mixed7")
        store = done.get("--store")
        assert make(checkout, "train", f"DATA={data}").get("--store") == store
    for data in ("a b", "a_b", "a  b"):
        assert (done := make(checkout, "extract", f"DATA={data}")).get("--images") == data
    assert done.get("--store") != make(checkout, "extract", "DATA=a_b").get("--store")


def test_training_names_data_where_the_store_is_of_it(checkout: Path) -> None:
    for target in ("train", "sweep", "compare"):
        assert make(checkout, target).get("--images") == "data/elpv"
        assert make(checkout, target, "DATA=a").get("--images") == "a"
        assert make(checkout, target, "DATA=a", "STORE=s").get("--images") == "a"
        assert make(checkout, target, "STORE=s").get("--images") is None


def test_files_are_one_path_with_spaces_or_several_quoted_ones(checkout: Path) -> None:
    (checkout / "my pictures").mkdir()
    assert make(checkout, "predict", "FILES=my pictures").call[-1] == "my pictures"
    assert make(checkout, "predict", "FILES=a.jpg 'my other/b.jpg' c").call[-3:] == ["a.jpg", "my other/b.jpg", "c"]
    done = make(checkout, "predict")
    assert (done.status, done.calls) == (2, [])
    assert "FILES: expected pictures" in done.err


def test_stage_without_the_one_before_names_its_command(checkout: Path) -> None:
    given = ["DATA=my pics", "DROPOUT=0.5", "POOL=avg"]
    for target, more, command in [
        ("train", [], "make extract DATA='my pics' POOL=avg"),
        ("export", [], "make train DATA='my pics' DROPOUT=0.5 POOL=avg"),
        ("report", ["TEST=1"], "make train DATA='my pics' DROPOUT=0.5 POOL=avg"),
        ("predict", ["FILES=x", "ARGS=-v"], "make export DATA='my pics' DROPOUT=0.5 POOL=avg"),
    ]:
        done = make(checkout, target, *given, *more, STATUS="1")
        assert done.status == 2
        assert f"First run: {command}\n" in done.err
    (checkout / "run").mkdir()
    assert "First run" not in make(checkout, "export", "RUN=run", STATUS="1").err
    assert "First run" not in make(checkout, "export", *given).err


def test_runs_lists_those_of_data(checkout: Path) -> None:
    assert make(checkout, "runs").call == ["-m", "train_head.runs", "work/elpv"]
    (folder,) = {Path(make(checkout, "train", "DATA=pics").get("--run") or "").parent}
    assert make(checkout, "runs", "DATA=pics").call == ["-m", "train_head.runs", str(folder)]


def test_options_of_the_head_give_a_run_of_its_own_and_reach_the_command(checkout: Path) -> None:
    done = make(checkout, "train", "DROPOUT=0.5", "LEARNING_RATE=1e-3", "POOL=avg", "CUT=a/../b c")
    assert (done.get("--dropout"), done.get("--learning-rate")) == ("0.5", "1e-3")
    assert done.get("--store") == "work/elpv/store-poolavg"
    run = done.get("--run") or ""
    assert run.startswith("work/elpv/run-poolavg-dropout0.5-learning-rate1e-3")
    assert Path(run).parent == Path("work/elpv")
    assert make(checkout, "export", "DROPOUT=0.5", "LEARNING_RATE=1e-3", "POOL=avg", "CUT=a/../b c").get("--run") == run


def test_clean_removes_the_environment_and_caches_alone(checkout: Path) -> None:
    for name in ("data/holiday/1.jpg", "work/elpv/run/run.json", "features/store.py", "features/__pycache__/a.pyc"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    (checkout / ".ruff_cache").mkdir()
    assert make(checkout, "clean").status == 0
    left = {str(path.relative_to(checkout)) for path in checkout.rglob("*") if path.is_file()}
    assert left == {"Makefile", "data/holiday/1.jpg", "work/elpv/run/run.json", "features/store.py"}


def test_clean_leaves_a_folder_that_is_no_environment(checkout: Path) -> None:
    (checkout / "mine").mkdir()
    (checkout / "mine/thesis.txt").touch()
    assert make(checkout, "clean", "VENV=mine").status == 2
    assert (checkout / "mine/thesis.txt").exists()


def test_clean_all_lists_what_goes_and_removes_it_only_when_confirmed(checkout: Path) -> None:
    for name in ("data/holiday/1.jpg", "data/elpv/functional/mine.png", "work/elpv/run/run.json"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    done = make(checkout, "clean-all")
    assert (done.status, done.calls) == (2, [])
    assert "work/elpv" in done.out
    assert "CONFIRM=yes" in done.err
    assert (checkout / "work/elpv/run/run.json").exists()
    done = make(checkout, "clean-all", "CONFIRM=yes")
    assert (done.status, done.call) == (0, ["-m", "extract.demo_data", "--remove"])
    assert not (checkout / "work").exists()
    assert not (checkout / ".venv").exists()
    assert (checkout / "data/holiday/1.jpg").exists()
    assert (checkout / "data/elpv/functional/mine.png").exists()


def test_help_lists_every_target_and_variable(checkout: Path) -> None:
    done = make(checkout, "help")
    assert {"make runs", "make clean", "make clean-all"} <= {
        " ".join(line.split()[:2]) for line in done.out.splitlines()
    }
    assert {"DATA=folder", "WEIGHTS=", "CONFIRM=yes", "FILES=paths"} <= set(done.out.split())


def test_stages_keep_their_order_under_parallel_make(checkout: Path) -> None:
    done = make(checkout, "-j4", "extract", "train", "export", "DATA=pics")
    assert [call[1] for call in done.calls] == ["extract", "train_head", "train_head.export"]
