"""Presets of training: the options that they set, and the runs that they give."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from base.options import make_options
from extract.config import ExtractConfig
from features.presets import PRESETS, PresetName
from train_head.config import TrainConfig
from train_head.runs.record import describe_config

pytestmark = pytest.mark.unit


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
