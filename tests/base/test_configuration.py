"""Configuration files: where they are found, what they set, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from base.commands import import_config, list_configs
from base.configuration import find_configuration, read_defaults
from base.errors import UsageError
from tests.commands import run_command
from tests.systems import needs_posix

pytestmark = pytest.mark.unit

Read = Callable[..., dict[str, Any]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Function that writes headstart.toml, and reads the options of a command from a folder below it."""
    (tmp_path / "below").mkdir()

    def read(text: str, command: str = "train") -> dict[str, Any]:
        (tmp_path / "headstart.toml").write_text(text, encoding="utf-8")
        configuration = find_configuration(tmp_path / "below")
        assert configuration is not None
        return read_defaults(configuration, command, import_config(dict(list_configs())[command]))

    return read


def test_find_configuration_uses_the_nearest_file_that_has_options(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert find_configuration(below) is None
    (tmp_path / "pyproject.toml").write_text("[tool.headstart]\nepochs = 3\n")
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.ruff]\n# headstart\n")
    found = find_configuration(below)
    assert found is not None
    assert (found.path, found.values) == (tmp_path / "pyproject.toml", {"epochs": 3})
    (tmp_path / "headstart.toml").write_bytes(b"\xef\xbb\xbfepochs = 4\n")
    found = find_configuration(below)
    assert found is not None
    assert (found.path, found.values) == (tmp_path / "headstart.toml", {"epochs": 4})


def test_read_defaults_applies_the_top_level_and_the_table_of_the_command(read: Read) -> None:
    text = 'epochs = 3\nimage-size = 299\nseed = 1\n[train]\nseed = 2\nno-report = true\n[sweep]\nmetric = "val_loss"\n'
    assert read(text) == {"epochs": 3, "seed": 2, "no_report": True}
    assert read(text, "sweep") == {"epochs": 3, "seed": 1, "metric": "val_loss"}
    assert read(text, "extract") == {"image_size": 299}
    assert read('[extract.summary]\ncut = "mixed5"\n', "extract summary") == {"cut": "mixed5"}
    assert read("[features.check]\nread_data = true\n", "features check") == {"read_data": True}


@pytest.mark.parametrize(
    ("command", "text", "expected"),
    [
        ("extract", 'classes = ["cats", "dogs"]', {"classes": "cats,dogs"}),
        ("extract", "sample_bits = 12", {"sample_bits": "12"}),
        ("sweep", 'try = ["units=1,2", "l2=0,1"]', {"tries": ["units=1,2", "l2=0,1"]}),
        ("export", 'threshold = 0.7\ncheck = "all"', {"threshold": "0.7", "check": "all"}),
        ("export", "check = 9", {"check": "9"}),
    ],
)
def test_read_defaults_converts_values_to_those_of_the_command_line(
    read: Read, command: str, text: str, expected: dict[str, Any]
) -> None:
    assert read(text, command) == expected


@needs_posix
@pytest.mark.parametrize(
    ("command", "value", "expected"),
    [
        ("extract", 'store = "work/store"', "{folder}/work/store"),
        ("extract", 'images = "/pictures"', "/pictures"),
        ("extract", 'images = "s3://bucket/x"', "s3://bucket/x"),
        ("extract", 'labels = "labels.csv"', "{folder}/labels.csv"),
        ("extract", 'weights = "imagenet"', "imagenet"),
        ("extract", 'weights = "inception.h5"', "{folder}/inception.h5"),
        ("extract", 'weights = "./inception"', "{folder}/inception"),
        ("export", 'images = "pictures"', "{folder}/pictures"),
        ("predict", 'out = ""', ""),
        ("extract", 'store = "~/store"', f"{Path.home()}/store"),
    ],
)
def test_read_defaults_paths_are_relative_to_the_file(
    read: Read, tmp_path: Path, command: str, value: str, expected: str
) -> None:
    found = [Path(value) for value in read(value, command).values()]
    assert found == [Path(expected.format(folder=tmp_path))]


@needs_posix
def test_read_defaults_paths_beside_the_current_folder_stay_relative(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read('store = "work/store"') == {"store": "work/store"}


@pytest.mark.parametrize(
    ("text", "where", "nearest"),
    [
        ("dropuot = 0.5", "dropuot", "dropout"),
        ("[trian]\nepochs = 1", "trian", "train"),
        ("[features.chekc]\ncut = ''", "features.chekc", "check"),
        ("[extract.sumary]\ncut = ''", "extract.sumary", "summary"),
        ("[sweep.try]\ndropout = [0]", "sweep.try", ""),
        ("[tool.headstart.train]\nepochs = 1", "tool", "pyproject.toml"),
        ("'' = 3", "", ""),
        ("store = '~no-such-user/store'", "store", "whole path"),
        ("[export]\nformat = 'keras'", "export.format", "formats"),
        ("[train]\nimage_size = 3", "train.image_size", ""),
        ("[features]\ncut = ''", "features.cut", ""),
        ("[train]\nepochs = 'many'", "train.epochs", ""),
        ("[export]\ncheck = 'some'", "export.check", ""),
        ("[extract]\nview_seed = -1", "extract.view_seed", ""),
        ("epochs = true", "epochs", ""),
        ("run = ''", "run", ""),
        ("train = 3", "train", ""),
        ("json = true", "json", ""),
        ("[prune]\nconfirm = true", "prune.confirm", ""),
        ("[prune]\nonly = 'exports'", "prune.only", ""),
        ("[features.prune]\ndrop_cut = 'mixed5'", "features.prune.drop_cut", "--drop-cut"),
        ("files = ['a.jpg']", "files", ""),
        ("[predict]\nfiles = ['a.jpg']", "predict.files", ""),
        ("class-weight = 'none'\nclass_weight = 'none'", "class_weight", ""),
    ],
)
def test_read_defaults_invalid_key_or_value_is_usage_error(
    read: Read, tmp_path: Path, text: str, where: str, nearest: str
) -> None:
    with pytest.raises(UsageError) as caught:
        read(text)
    assert str(caught.value.where) == f"{tmp_path / 'headstart.toml'}: {where}"
    assert nearest in caught.value.advice


@pytest.mark.parametrize("content", [b"epochs = \n", b"\xff", b"a = " + b"[" * 5000])
def test_find_configuration_broken_file_is_usage_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "headstart.toml").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        find_configuration(tmp_path)
    assert caught.value.where == tmp_path / "headstart.toml"


@pytest.mark.parametrize(
    ("content", "where"),
    [("[ tool.headstart.train]\nepochs = ", ""), ("[tool]\nheadstart = 5", ": tool.headstart")],
)
def test_find_configuration_broken_table_of_a_project_is_usage_error(tmp_path: Path, content: str, where: str) -> None:
    (path := tmp_path / "pyproject.toml").write_text(content)
    with pytest.raises(UsageError) as caught:
        find_configuration(tmp_path)
    assert str(caught.value.where) == f"{path}{where}"


@pytest.mark.parametrize("content", ["# headstart\n[tool.other\n", 'tool = "headstart"', "[[tool]]\nheadstart = 1\n"])
def test_find_configuration_foreign_project_is_ignored(tmp_path: Path, content: str) -> None:
    (tmp_path / "pyproject.toml").write_text(content)
    assert find_configuration(tmp_path) is None


def test_command_line_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("extract.engines.choose.check_options", lambda *options: seen.append(options))
    monkeypatch.chdir(tmp_path)
    text = 'images = "pictures"\nstore = "store"\nengine = "openvino"\nprecision = "int8"\ndry_run = true\n'
    (tmp_path / "headstart.toml").write_text(text)
    done = run_command("extract.__main__", "--precision", "float32", "--no-dry-run", "--part", "wrong", "-v", "--json")
    assert (done.status, done.json["where"]) == (2, "--part")
    assert [str(value) for value in seen[0]] == ["openvino", "float32"]
    assert str(tmp_path / "headstart.toml") in done.err


def test_file_wins_over_the_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "headstart.toml").write_text('images = "x"\nstore = "y"\n[extract]\nimage_size = 150\npart = "wrong"\n')
    done = run_command("extract.__main__", "--preset", "small")
    assert "given instead: --image-size 150" in done.err


def test_help_does_not_need_a_valid_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "headstart.toml").write_text("dropuot = 1\n")
    assert run_command("train_head.__main__", "--help").status == 0
    assert run_command("train_head.__main__", "--json").json["where"] == f"{tmp_path / 'headstart.toml'}: dropuot"
