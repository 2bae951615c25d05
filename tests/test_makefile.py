"""Variables and targets of the Makefile."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from base.invocation import format_command
from tests.make import RECORD_ARGUMENTS, make

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Folder with the Makefile and a recording program as `.venv/bin/python`."""
    folder = tmp_path / "check out"
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    python.write_text(RECORD_ARGUMENTS)
    python.chmod(0o755)
    (folder / ".venv/pyvenv.cfg").touch()
    return folder


def touch(checkout: Path, *names: str) -> None:
    for name in names:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()


@pytest.mark.parametrize(
    ("given", "nearest"), [("DROPUOT=0.5", "DROPOUT"), ("epochs=3", "EPOCHS"), ("OVERWRITES=1", "OVERWRITE")]
)
def test_unknown_variable_is_refused_with_the_nearest_name(given: str, nearest: str, checkout: Path) -> None:
    done = make(checkout, "train", given)
    assert (done.status, done.calls) == (2, [])
    assert given in done.err
    assert re.search(rf"\b{nearest}\b", done.err)


def test_every_variable_in_the_help_is_accepted(checkout: Path) -> None:
    text = (ROOT / "Makefile").read_text().split("\n\n")[0]
    names = {word.split("=")[0] for word in text.split() if "=" in word and word.split("=")[0].isupper()}
    assert {"DATA", "EPOCHS", "FILES", "CONFIRM", "COMPARE", "PYTHON"} <= names
    done = make(checkout, "-n", "train", "TENSORBOARD_DONE=", "RAY=", *(f"{name}=1" for name in names))
    assert done.status == 0, done.err


def test_variables_in_the_environment_are_ignored(checkout: Path) -> None:
    names = ["EPOCHS", "SEED", "RANK", "OUT", "DATA", "STORE", "RUN", "WEIGHTS", "OVERWRITE", "ARGS", "NAME", "CUT"]
    targets = ("train", "export")
    assert make(checkout, *targets, **dict.fromkeys(names, "7")).calls == make(checkout, *targets).calls


@pytest.mark.parametrize("word", ["0", "no", "No", "NO", "false", "off", "n", ""])
def test_switch_set_to_no_is_off(word: str, checkout: Path) -> None:
    switches = [f"{name}={word}" for name in ("OVERWRITE", "TENSORBOARD", "TEST")]
    train, sweep, report = make(checkout, "train", "sweep", "report", *switches).calls
    assert not {"--overwrite", "--tensorboard"} & {*train, *sweep}
    assert "--test" not in report
    assert make(checkout, "clean-all", f"CONFIRM={word}").status == 2


@pytest.mark.parametrize("word", ["1", "yes", "Yes", "true", "on"])
def test_switch_set_to_yes_is_on(word: str, checkout: Path) -> None:
    switches = [f"OVERWRITE={word}", f"TENSORBOARD={word}", "TENSORBOARD_DONE=", f"TEST={word}"]
    compare, report = make(checkout, "compare", "report", *switches).calls
    assert {"--overwrite", "--tensorboard"} <= set(compare)
    assert "--test" in report


@pytest.mark.parametrize("given", ["OVERWRITE=maybe", "TEST=2", "TENSORBOARD=yes no"])
def test_switch_set_to_another_word_is_refused(given: str, checkout: Path) -> None:
    done = make(checkout, "train", given)
    assert (done.status, done.calls) == (2, [])
    assert given.split("=")[0] in done.err


@pytest.mark.parametrize("name", ["DATA", "STORE", "RUN", "OUT", "SWEEP", "COMPARE"])
def test_empty_folder_is_refused(name: str, checkout: Path) -> None:
    done = make(checkout, "train", f"{name}=")
    assert (done.status, done.calls) == (2, [])
    assert f"{name}:" in done.err


@pytest.mark.parametrize(("given", "expected"), [("my weights.h5", "my weights.h5"), ("auto", None), (None, None)])
def test_weights_are_passed_to_every_stage(given: str | None, expected: str | None, checkout: Path) -> None:
    targets = ("extract", "train", "sweep", "compare", "report", "export")
    done = make(checkout, *targets, "DATA=pictures", *([f"WEIGHTS={given}"] if given else []))
    assert len(done.calls) == len(targets)
    for call in done.calls:
        assert (call[call.index("--weights") + 1] if "--weights" in call else None) == expected, call


def test_folders_with_the_same_last_name_have_separate_stores(checkout: Path) -> None:
    stores = {data: make(checkout, "extract", f"DATA={data}").get("--store") for data in ("a/pics", "b/pics", "pics")}
    assert len(set(stores.values())) == 3
    assert all(store and store.startswith("work/pics-") for store in stores.values())
    for data in ("./pics/", f"{checkout}/pics"):
        assert make(checkout, "train", f"DATA={data}").get("--store") == stores["pics"]


@pytest.mark.parametrize("data", [[], ["DATA=it's mine"]])
def test_demo_passes_the_arguments_of_each_stage_to_one_process(data: list[str], checkout: Path) -> None:
    given = [*data, "DROPOUT=0.5", "IMAGE_SIZE=75", "RUN=my run", "OUT=my model", "FORMATS=keras", "WEIGHTS=w.h5"]
    demo, stages = make(checkout, "demo", *given), make(checkout, "extract", "train", "export", *given).calls
    assert demo.call[:2] == ["-m", "headstart.demo"]
    for (_, _, *arguments), option in zip(stages[-3:], ("--extract", "--train", "--export"), strict=True):
        assert shlex.split(demo.get(option) or "") == arguments
    assert demo.get("--images") == ("it's mine" if data else None)


def test_default_data_is_written_before_extraction(checkout: Path) -> None:
    assert make(checkout, "train").get("--run") == "work/elpv/run"
    done = make(checkout, "extract", "DATA=./data/elpv/")
    assert [call[1] for call in done.calls] == ["extract.demo_data", "extract"]
    assert "work/elpv/store" in done.calls[1]


def test_folder_of_an_earlier_version_is_reported_until_it_is_linked(checkout: Path) -> None:
    (checkout / "work/pics/store").mkdir(parents=True)
    done = make(checkout, "train", "DATA=a/pics")
    store = done.get("--store")
    assert store
    command = done.err[done.err.index("ln -s ") :]
    subprocess.run(command, shell=True, check=True, cwd=checkout)
    assert (checkout / store).is_dir()
    assert make(checkout, "train", "DATA=a/pics").err == ""
    assert make(checkout, "train").err == ""


@pytest.mark.parametrize("data", ["my pictures", "it's", 'a "b"', "$HOME", "$(DATA)", "a;b", "a&b", "50%", "été"])
def test_value_with_special_characters_is_passed_unchanged(data: str, checkout: Path) -> None:
    info, train = make(checkout, "info", "train", f"DATA={data}", "CUT=mixed5,mixed7").calls
    assert train[train.index("--images") + 1] == data
    assert train[train.index("--cut") + 1] == "mixed5,mixed7"
    assert train[train.index("--store") + 1] == info[3]
    assert make(checkout, "extract", f"DATA={data}").get("--images") == data


def test_labels_and_columns_are_passed_to_extract_only(checkout: Path) -> None:
    given = ["DATA=dogs", "LABELS=my labels.csv", "COLUMNS=path=id,label=Finding Labels,separator=;"]
    extract, train = make(checkout, "extract", "train", *given, COLUMNS="80").calls
    assert extract[extract.index("--labels") + 1] == "my labels.csv"
    assert extract[extract.index("--columns") + 1] == "path=id,label=Finding Labels,separator=;"
    assert not {"--labels", "--columns"} & set(train)
    assert make(checkout, "extract", "DATA=dogs", COLUMNS="80").get("--columns") is None


def test_classes_and_min_pictures_are_passed_to_extract_only(checkout: Path) -> None:
    extract, train = make(checkout, "extract", "train", "DATA=dogs", "CLASSES=New York,cats", "MIN_PICTURES=2").calls
    assert extract[extract.index("--classes") + 1] == "New York,cats"
    assert extract[extract.index("--min-pictures") + 1] == "2"
    assert not {"--classes", "--min-pictures"} & set(train)


def test_spaces_in_data_give_separate_stores(checkout: Path) -> None:
    done = {data: make(checkout, "extract", f"DATA={data}") for data in ("a b", "a_b", "a  b")}
    assert {data: result.get("--images") for data, result in done.items()} == {data: data for data in done}
    assert done["a_b"].get("--store") not in (done["a b"].get("--store"), done["a  b"].get("--store"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [([], "data/elpv"), (["DATA=a"], "a"), (["DATA=a", "STORE=s"], "a"), (["STORE=s"], None)],
)
def test_training_passes_data_unless_only_store_is_given(
    given: list[str], expected: str | None, checkout: Path
) -> None:
    done = make(checkout, "train", "sweep", "compare", *given)
    assert len(done.calls) == 3
    for call in done.calls:
        assert (call[call.index("--images") + 1] if "--images" in call else None) == expected, call


def test_files_are_one_path_with_spaces_or_several_quoted_paths(checkout: Path) -> None:
    (checkout / "my pictures").mkdir()
    assert make(checkout, "predict", "FILES=my pictures").call[-1] == "my pictures"
    assert make(checkout, "predict", "FILES=a.jpg 'my other/b.jpg' c").call[-3:] == ["a.jpg", "my other/b.jpg", "c"]
    done = make(checkout, "predict")
    assert (done.status, done.calls) == (2, [])
    assert "FILES" in done.err


def test_serve_passes_the_run_if_it_exists(checkout: Path) -> None:
    given = ["SERVE=", "OUT=my model", "RUN=my run", "PORT=0"]
    assert make(checkout, "serve", *given).call == ["-m", "train_head.serve", "--model", "my model", "--port", "0"]
    (checkout / "my run").mkdir()
    assert make(checkout, "serve", *given).get("--run") == "my run"


@pytest.mark.parametrize(
    ("target", "more", "command"),
    [
        ("train", [], "make extract DATA='my pics' POOL=avg"),
        ("info", [], "make extract DATA='my pics' POOL=avg"),
        ("train", ["PRESET=accurate"], "make extract DATA='my pics' PRESET=accurate POOL=avg"),
        ("export", [], "make train DATA='my pics' DROPOUT=0.5 POOL=avg"),
        ("report", ["TEST=1"], "make train DATA='my pics' DROPOUT=0.5 POOL=avg"),
        ("predict", ["FILES=x", "ARGS=-v"], "make export DATA='my pics' DROPOUT=0.5 POOL=avg"),
        ("suggest", ["FILES=x", "COUNT=9"], "make export DATA='my pics' DROPOUT=0.5 POOL=avg"),
        ("serve", ["SERVE=", "PORT=0"], "make export DATA='my pics' DROPOUT=0.5 POOL=avg"),
    ],
)
def test_failed_stage_without_its_input_prints_the_command_to_run_first(
    target: str, more: list[str], command: str, checkout: Path
) -> None:
    given = ["DATA=my pics", "DROPOUT=0.5", "POOL=avg", *more]
    done = make(checkout, target, *given, STATUS="1")
    assert done.status == 2
    assert f"{command}\n" in done.err
    assert command not in make(checkout, target, *given).err


def test_command_to_run_first_works_from_the_folder_of_the_user(checkout: Path) -> None:
    done = make(checkout, "train", "DATA=it's", STATUS="1", PWD="/")
    _, _, line = done.err.splitlines()[0].partition(", run: ")
    assert shlex.split(line) == ["make", "-C", str(checkout), "extract", "DATA=it's"]


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("predict", ["--model", "it's $HOME", "a b.jpg", "c#1.jpg", "--top", "2"]),
        ("train", ["--store", "my store", "--run", "r", "--images", "p", "--dropout", "0.5", "--no-report"]),
        ("extract", ["--images", "my $(pics)", "--store", "s", "--image-size", "299", "--batch-size", "8"]),
        ("sweep", ["--store", "s", "--out", "o"]),
        ("export", ["--run", "r", "--out", "o"]),
        ("report", ["--run", "r", "--test"]),
        ("advise", ["--images", "my pics", "--store", "s"]),
        ("prune", ["work/elpv", "--only", "runs", "--confirm"]),
    ],
)
def test_command_of_make_in_a_message_gives_the_same_arguments(
    command: str, arguments: list[str], checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(checkout, "s")
    exported = dict(re.findall(r"(HEADSTART_MAKE\w*) := (.*)", make(checkout, "-pn", "train").out))
    for name, value in exported.items():
        monkeypatch.setenv(name, value)
    assert exported["HEADSTART_MAKE"] == "make"
    line = format_command(command, *arguments)
    (call,) = make(checkout, *shlex.split(line)[1:]).calls
    # `make advise` also gives a folder for its sample.
    assert sorted(call[2:]) == sorted(arguments) or command == "advise"
    assert set(arguments) <= set(call)


def test_failed_stage_with_its_input_prints_no_command(checkout: Path) -> None:
    (checkout / "run").mkdir()
    done = make(checkout, "export", "RUN=run", STATUS="1")
    assert done.status == 2
    assert "make train" not in done.err


@pytest.mark.parametrize(
    ("flags", "runs", "is_printed"), [([], True, True), (["-n"], False, True), (["-s"], True, False)]
)
def test_stage_prints_only_its_command(flags: list[str], runs: bool, is_printed: bool, checkout: Path) -> None:
    done = make(checkout, *flags, "train", "STORE=it's a store", "RUN=run", "ARGS=-v")
    assert (len(done.calls) == 1) == runs
    command = r".venv/bin/python -m train_head --store 'it'\''s a store' --run 'run' -v"
    assert [" ".join(line.split()) for line in done.out.splitlines()] == [command] * is_printed


def test_runs_lists_the_folder_of_data(checkout: Path) -> None:
    assert make(checkout, "runs").call == ["-m", "train_head.runs", "work/elpv"]
    folder = Path(make(checkout, "train", "DATA=pics").get("--run") or "").parent
    assert make(checkout, "runs", "DATA=pics").call == ["-m", "train_head.runs", str(folder)]


def test_prune_lists_the_folder_of_data_and_removes_only_with_confirm(checkout: Path) -> None:
    assert make(checkout, "prune").call == ["-m", "train_head.prune", "work/elpv"]
    assert make(checkout, "prune", "CONFIRM=yes").call == ["-m", "train_head.prune", "work/elpv", "--confirm"]
    assert make(checkout, "prune", "CONFIRM=no").call == ["-m", "train_head.prune", "work/elpv"]


def test_head_options_are_passed_and_name_the_run(checkout: Path) -> None:
    given = ["DROPOUT=0.5", "LEARNING_RATE=1e-3", "POOL=avg", "CUT=a/../b c"]
    done = make(checkout, "train", *given)
    assert (done.get("--dropout"), done.get("--learning-rate")) == ("0.5", "1e-3")
    assert done.get("--store") == "work/elpv/store-poolavg"
    run = done.get("--run") or ""
    assert run.startswith("work/elpv/run-poolavg-dropout0.5-learning-rate1e-3")
    assert Path(run).parent == Path("work/elpv")
    assert make(checkout, "export", *given).get("--run") == run


def test_preset_is_passed_to_extract_and_train_and_names_every_folder(checkout: Path) -> None:
    made = make(checkout, "extract", "train", "export", "DATA=pics", "PRESET=accurate", "IMAGE_SIZE=224").calls
    options = [dict(zip(call[2::2], call[3::2], strict=False)) for call in made]
    extract, train, export = options
    assert (extract["--preset"], train["--preset"], extract["--image-size"]) == ("accurate", "accurate", "224")
    assert "--preset" not in export
    assert extract["--store"] == train["--store"]
    assert train["--run"] == export["--run"]
    small = make(checkout, "extract", "train", "DATA=pics", "PRESET=small", "IMAGE_SIZE=224").calls
    assert not {extract["--store"], train["--run"]} & set(sum(small, []))


def test_preset_course_shares_the_folders_of_the_defaults(checkout: Path) -> None:
    targets = ("extract", "train", "export", "DATA=pics")
    assert make(checkout, *targets, "PRESET=course").calls == make(checkout, *targets).calls


def test_advise_has_the_pictures_and_the_store_if_it_exists(checkout: Path) -> None:
    done = make(checkout, "advise", "DATA=pics", "LABELS=labels.csv", "PRESET=accurate")
    assert (done.get("--images"), done.get("--labels"), done.get("--store")) == ("pics", "labels.csv", None)
    folder = Path(done.get("--out") or "").parent
    store = make(checkout, "train", "DATA=pics", "PRESET=accurate").get("--store") or ""
    assert Path(store).parent == folder
    (checkout / store).mkdir(parents=True)
    assert make(checkout, "advise", "DATA=pics", "PRESET=accurate").get("--store") == store
    (checkout / "mine").mkdir()
    alone = make(checkout, "advise", "STORE=mine")
    assert (alone.get("--store"), alone.get("--images")) == ("mine", None)


def test_clean_removes_only_the_environment_and_caches(checkout: Path) -> None:
    kept = ("data/holiday/1.jpg", "work/elpv/run/run.json", "features/store.py")
    packages = ("base", "extract", "features", "headstart", "release", "tests", "train_head")
    touch(checkout, *kept, ".ruff_cache/a", *(f"{package}/__pycache__/a.pyc" for package in packages))
    assert make(checkout, "clean").status == 0
    left = {str(path.relative_to(checkout)) for path in checkout.rglob("*") if path.is_file()}
    assert left == {"Makefile", *kept}


def test_clean_with_another_folder_as_environment_is_refused(checkout: Path) -> None:
    touch(checkout, "mine/thesis.txt")
    assert make(checkout, "clean", "VENV=mine").status == 2
    assert (checkout / "mine/thesis.txt").exists()


def test_clean_all_without_confirm_lists_and_removes_nothing(checkout: Path) -> None:
    touch(checkout, "work/elpv/run/run.json")
    done = make(checkout, "clean-all")
    assert (done.status, done.calls) == (2, [])
    assert "work/elpv" in done.out
    assert "CONFIRM=yes" in done.err
    assert (checkout / "work/elpv/run/run.json").exists()


def test_clean_all_with_confirm_removes_work_and_keeps_other_pictures(checkout: Path) -> None:
    pictures = ("data/holiday/1.jpg", "data/elpv/functional/mine.png")
    touch(checkout, *pictures, "work/elpv/run/run.json")
    done = make(checkout, "clean-all", "CONFIRM=yes")
    assert (done.status, done.call) == (0, ["-m", "extract.demo_data", "--remove"])
    left = {str(path.relative_to(checkout)) for path in checkout.rglob("*") if path.is_file()}
    assert left == {"Makefile", *pictures}


def test_test_fast_runs_only_the_unit_tests(checkout: Path) -> None:
    call = make(checkout, "test-fast", "ARGS=tests/base").call
    assert call[:2] == ["-m", "pytest"]
    assert call[call.index("-m", 1) + 1] == "unit"
    assert call[-1] == "tests/base"


def test_help_lists_targets_and_variables(checkout: Path) -> None:
    done = make(checkout, "help")
    lines = {" ".join(line.split()[:2]) for line in done.out.splitlines()}
    assert {"make runs", "make test-fast", "make clean", "make clean-all"} <= lines
    assert {"DATA=folder", "WEIGHTS=", "CONFIRM=yes", "FILES=paths"} <= set(done.out.split())


def test_parallel_make_runs_the_stages_in_order(checkout: Path) -> None:
    done = make(checkout, "-j4", "extract", "train", "export", "DATA=pics")
    assert [call[1] for call in done.calls] == ["extract", "train_head", "train_head.export"]
