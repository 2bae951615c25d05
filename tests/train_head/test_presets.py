"""Presets of training: the options that they set, and the runs that they give."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from base.errors import UsageError
from base.options import make_options
from base.terminal import Console, ConsoleOptions
from extract.config import ExtractConfig
from features.presets import PRESETS, PresetName
from tests.errors import count_warnings, raises
from tests.train_head.synthetic import FINGERPRINT, draw_features, list_paths, make_store
from train_head.config import TrainConfig
from train_head.runs.record import describe_config, read_record
from train_head.train import train_head

pytestmark = pytest.mark.unit
PATHS = list_paths({"train/cats": 5, "train/dogs": 5, "validation/cats": 2, "validation/dogs": 2})


def make(**values: Any) -> tuple[ExtractConfig, TrainConfig]:
    extraction = {name: value for name, value in values.items() if name in {f.name for f in fields(ExtractConfig)}}
    return (
        make_options(ExtractConfig, {"images": "p", "store": "s", **extraction}, "extract"),
        make_options(TrainConfig, {"store": "s", "run": "r", **values}, "train"),
    )


@pytest.mark.parametrize("name", PresetName)
def test_preset_sets_options_that_its_stages_have(name: PresetName) -> None:
    for config, values in zip(make(preset=name), (PRESETS[name].extract, PRESETS[name].train), strict=True):
        assert {option: getattr(config, option) for option in values} == values


def test_preset_course_is_the_defaults() -> None:
    assert make(preset="course") == make()


@pytest.mark.parametrize("name", PresetName)
def test_preset_is_not_recorded_in_a_run(name: PresetName) -> None:
    _, config = make(preset=name)
    assert describe_config(config) == describe_config(
        make_options(TrainConfig, {"store": "s", "run": "r", **PRESETS[name].train}, "train")
    )


@pytest.mark.parametrize("name", PresetName)
def test_preset_trains_on_the_layers_that_it_extracts(name: PresetName) -> None:
    extraction, training = make(preset=name)
    assert training.cut in ("", extraction.cut)


@pytest.fixture(scope="module")
def accurate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the pooled features of the preset `accurate`; not changed."""
    folder = tmp_path_factory.mktemp("presets") / "accurate"
    for cut in PRESETS[PresetName.ACCURATE].extract["cut"].split(","):
        fingerprint = replace(FINGERPRINT, cut=cut, image_size=299, pool="avg")
        make_store(folder / cut, PATHS, features=draw_features(PATHS, (3,)), fingerprint=fingerprint)
    return folder


def test_train_with_a_preset_records_and_reuses_the_run_of_the_same_options(
    accurate: Path, tmp_path: Path, quiet: Console
) -> None:
    values = {"store": accurate, "run": tmp_path / "run", "no_report": True}
    train_head(make_options(TrainConfig, {**values, "preset": "accurate"}, "train"), quiet)
    record = read_record(tmp_path / "run")
    assert "preset" not in record.config
    assert (record.config["cut"], record.solver) == (PRESETS[PresetName.ACCURATE].train["cut"], "ridge")
    for options in ({"preset": "accurate"}, PRESETS[PresetName.ACCURATE].train):
        train_head(make_options(TrainConfig, {**values, **options}, "train"), quiet)
        assert read_record(tmp_path / "run") == record
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["run"]


def test_train_with_a_preset_on_a_store_without_its_layers_is_usage_error_with_the_command_to_run(
    tmp_path: Path, quiet: Console
) -> None:
    make_store(tmp_path / "store", PATHS)
    values = {"store": tmp_path / "store", "run": tmp_path / "run", "preset": "accurate", "images": tmp_path / "a b"}
    with raises(UsageError, where="--preset accurate") as caught:
        train_head(make_options(TrainConfig, values, "train"), quiet)
    assert (
        f"--images '{tmp_path / 'a b'}' --store {tmp_path / 'store-accurate'} --preset accurate" in caught.value.advice
    )
    chosen = make_options(TrainConfig, {**values, "cut": "mixed0", "images": None}, "train")
    assert train_head(chosen, quiet)["solver"] == "ridge"


@pytest.mark.parametrize(("size", "num_warnings"), [(299, 0), (150, 1)])
def test_train_with_a_preset_warns_of_features_that_it_does_not_extract(
    size: int, num_warnings: int, accurate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "store"
    make_store(place, PATHS, fingerprint=replace(FINGERPRINT, cut="mixed7", image_size=size, pool="avg"))
    values = {"store": accurate if size == 299 else place, "run": tmp_path / "run", "no_report": True}
    preset = "accurate" if size == 299 else "small"
    config = make_options(TrainConfig, {**values, "preset": preset}, "train")
    train_head(config, Console(ConsoleOptions(quiet=True)))
    assert count_warnings(config.store, capsys) == num_warnings
