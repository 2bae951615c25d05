"""Search space: parsing of `--try`, default axes, and the number of values."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from base.errors import UsageError
from features.options import Pool
from features.store import FeatureStore
from tests.errors import raises
from tests.train_head.sweeps import make_sweep
from train_head.config import ClassWeight, OptimizerName, TrainConfig
from train_head.sweep.config import SweepConfig
from train_head.sweep.space import Axis, add_default_axes, parse_axes

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("cut=mixed5,mixed7", Axis("cut", ("mixed5", "mixed7"))),
        ("units=256,1024", Axis("units", (256, 1024))),
        ("dropout=0.2, 0.5", Axis("dropout", (0.2, 0.5))),
        ("learning-rate=1e-4,3e-4", Axis("learning_rate", (1e-4, 3e-4))),
        ("learning_rate=1e-4", Axis("learning_rate", (1e-4,))),
        ("pool=none,avg", Axis("pool", (Pool.NONE, Pool.AVG))),
        ("views=1,3", Axis("views", (1, 3))),
        ("optimizer=rmsprop,adam", Axis("optimizer", (OptimizerName.RMSPROP, OptimizerName.ADAM))),
        ("class-weight=balanced", Axis("class_weight", (ClassWeight.BALANCED,))),
        ("store=../a,../b", Axis("store", (Path("../a"), Path("../b")))),
    ],
)
def test_parse_axes_converts_values_to_the_type_of_the_option(text: str, axis: Axis) -> None:
    (found,) = parse_axes([text], takes_ranges=False)
    assert found == axis
    assert [type(value) for value in found.values] == [type(value) for value in axis.values]


def test_parse_axes_keeps_the_order() -> None:
    assert [axis.name for axis in parse_axes(["l2=0,1", "cut=a,b", "units=4"], takes_ranges=True)] == [
        "l2",
        "cut",
        "units",
    ]


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("dropout=0.0..0.7", Axis("dropout", (0.0, 0.7), is_range=True)),
        ("learning-rate=1e-5..1e-2", Axis("learning_rate", (1e-5, 1e-2), is_range=True)),
        ("units=64..1024", Axis("units", (64, 1024), is_range=True)),
        ("store=../a", Axis("store", (Path("../a"),))),
    ],
)
def test_parse_axes_with_ranges_parses_ranges_of_numbers(text: str, axis: Axis) -> None:
    assert parse_axes([text], takes_ranges=True) == [axis]


@pytest.mark.parametrize(
    ("text", "got", "possible"),
    [
        ("unit=4", "unit", "batch-size, class-weight"),
        ("units", "units", "units, views"),
        ("folds=2,3", "folds", "units, views"),
        ("units=-1", "'-1'", "0"),
        ("units=4.5", "'4.5'", "0"),
        ("dropout=0.2,1", "'1'", "0.99"),
        ("dropout=nan", "'nan'", "0.99"),
        ("optimizer=adm", "'adm'", "sgd"),
        ("cut=mixed5,", "''", ""),
        ("units=4,04", "4,04", "once"),
        ("units=4..8", "a range", "values"),
    ],
)
def test_parse_axes_of_an_invalid_axis_names_the_valid_values(text: str, got: str, possible: str) -> None:
    with raises(UsageError, where=f"--try {text}", got=got) as caught:
        parse_axes([text], takes_ranges=False)
    assert possible in caught.value.expected


@pytest.mark.parametrize("text", ["learning-rate=0..1e-3", "dropout=0.5..0.5", "units=8..4"])
def test_parse_axes_of_an_empty_or_unbounded_range_is_wrong_usage(text: str) -> None:
    with raises(UsageError, where=f"--try {text}", got=text.partition("=")[2]):
        parse_axes([text], takes_ranges=True)


def test_parse_axes_of_a_repeated_option_is_wrong_usage() -> None:
    with raises(UsageError, where="--try batch_size=8") as caught:
        parse_axes(["batch-size=4", "batch_size=8"], takes_ranges=False)
    assert "batch-size" in caught.value.got


def test_add_default_axes_without_axes_adds_cuts_units_dropouts_and_rates(cuts: Path, tmp_path: Path) -> None:
    axes = add_default_axes([], SweepConfig(cuts, tmp_path / "out"))
    assert [(axis.name, axis.values) for axis in axes] == [
        ("cut", ("mixed5", "mixed7")),
        ("units", (256, 1024)),
        ("dropout", (0.2, 0.5)),
        ("learning_rate", (3e-5, 1e-4, 3e-4)),
    ]


def test_add_default_axes_excludes_options_that_the_user_set(two_classes: FeatureStore, tmp_path: Path) -> None:
    axes = add_default_axes([], SweepConfig(two_classes.path, tmp_path / "out", units=32, dropout=0.1))
    assert [axis.name for axis in axes] == ["learning_rate"]
    # Also options that the user set to their defaults.
    config = SweepConfig(two_classes.path, tmp_path / "out", units=1024, learning_rate=1e-4)
    assert [axis.name for axis in add_default_axes([], config)] == ["dropout"]
    linear = SweepConfig(two_classes.path, tmp_path / "out", units=0)
    assert [axis.name for axis in add_default_axes([], linear)] == ["learning_rate"]
    head = config.make_train_config("head", {"dropout": 0.5})
    assert (head.units, head.dropout, head.learning_rate) == (1024, 0.5, 1e-4)


def test_make_train_config_without_options_has_the_defaults_of_training(tmp_path: Path) -> None:
    made = SweepConfig(tmp_path / "store", tmp_path / "out").make_train_config("head", {})
    expected = TrainConfig(tmp_path / "store", tmp_path / "out/trials/head", no_report=True)
    assert made == expected


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("units=4,8,16", 3),
        ("units=64..1024", 961),
        # 1.00 to 9.99 in each of three decades, 2,700 numbers, plus one for each end of the range.
        ("learning-rate=1e-5..1e-2", 2702),
        ("learning-rate=1e-9..1e-2", 6302),
        ("learning-rate=0.1..0.2", 102),
    ],
)
def test_count_values_counts_the_values_that_a_search_can_draw(text: str, count: int) -> None:
    (axis,) = parse_axes([text], takes_ranges=True)
    assert axis.count_values() == count


def test_count_values_of_a_range_from_0_is_finite() -> None:
    (axis,) = parse_axes(["dropout=0.0..0.7"], takes_ranges=True)
    assert 900 * 5 < axis.count_values() < 900 * 7


def test_add_default_axes_adds_all_cuts_unless_a_cut_is_given(cuts: Path, tmp_path: Path) -> None:
    units = Axis("units", (4, 8))
    config = make_sweep(cuts, tmp_path / "out")
    assert add_default_axes([units], config) == [Axis("cut", ("mixed5", "mixed7")), units]
    assert add_default_axes([units], make_sweep(cuts, tmp_path / "out", cut="mixed5")) == [units]
    named = [Axis("cut", ("mixed7",)), units]
    assert add_default_axes(named, config) == named


def test_add_default_axes_with_stores_adds_the_cuts_that_all_have(cuts: Path, tmp_path: Path) -> None:
    stores = Axis("store", (cuts, shutil.copytree(cuts, tmp_path / "copy")))
    config = make_sweep(cuts, tmp_path / "out")
    assert add_default_axes([stores], config) == [Axis("cut", ("mixed5", "mixed7")), stores]
    mixed = Axis("store", (cuts, cuts / "mixed5"))
    assert add_default_axes([mixed], config) == [mixed]
