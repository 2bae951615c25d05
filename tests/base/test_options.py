"""Convert keyword arguments to options, and validate them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar

import pytest
from typer import Option

from base.errors import UsageError
from base.options import MAX_SHOWN, describe_kind, describe_preset, list_options, make_options
from tests.errors import raises

pytestmark = pytest.mark.unit


class Shape(StrEnum):
    ROUND = "round"
    FLAT = "flat"
    SIDES_8 = "8"


@dataclass(frozen=True)
class Options:
    folder: Annotated[Path, Option(help="Folder.")]
    files: Annotated[list[Path], Option(help="Files.")]
    shape: Annotated[Shape, Option(help="Shape.")] = Shape.ROUND
    share: Annotated[float, Option(min=0.0, max=0.9, help="Share.")] = 0.2
    count: Annotated[int | None, Option(min=1, help="Count.")] = None
    names: Annotated[str, Option(help="Names.")] = ""
    quick: Annotated[bool, Option("--quick", help="Quick.")] = False
    preset: Annotated[str, Option(help="Preset.")] = "usual"

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"usual": {}, "flat": {"shape": "flat", "share": 0.5}}


def make(**values: Any) -> Options:
    return make_options(Options, {"folder": "p", "files": ["a"], **values}, "work")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("folder", PurePosixPath("x/y"), Path("x/y")),
        ("files", "a.jpg", [Path("a.jpg")]),
        ("files", (PurePosixPath("a"), "b"), [Path("a"), Path("b")]),
        ("shape", "flat", Shape.FLAT),
        ("shape", Shape.FLAT, Shape.FLAT),
        ("shape", 8, Shape.SIDES_8),
        ("share", 0, 0.0),
        ("count", None, None),
        ("count", 3, 3),
        ("names", ["a", "b"], "a,b"),
        ("names", PurePosixPath("w.h5"), "w.h5"),
        ("quick", True, True),
    ],
)
def test_make_options_valid_value_is_converted(name: str, value: object, expected: object) -> None:
    found = getattr(make(**{name: value}), name)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("folder", 3),
        ("folder", ""),
        ("files", 3),
        ("files", {"a": 1}),
        ("files", [3]),
        ("shape", "square"),
        ("shape", None),
        ("share", 1.0),
        ("share", float("nan")),
        ("share", "0.5"),
        ("share", True),
        ("count", 0),
        ("count", 1.5),
        ("names", 3),
        ("quick", "yes"),
    ],
)
def test_make_options_invalid_value_is_usage_error(name: str, value: object) -> None:
    with raises(UsageError, where=name, got=repr(value if value != [3] else 3)):
        make(**{name: value})


def test_make_options_long_invalid_value_is_shortened() -> None:
    with raises(UsageError, where="shape") as caught:
        make(shape="x" * 1000)
    assert len(caught.value.got) == MAX_SHOWN + 1


def test_make_options_unknown_argument_is_type_error_with_the_nearest_name() -> None:
    with pytest.raises(TypeError, match="work.*'shap'.*'shape'"):
        make(shap="flat")


def test_make_options_missing_argument_is_type_error() -> None:
    with pytest.raises(TypeError, match="work.*'files'"):
        make_options(Options, {"folder": "p"}, "work")


def test_list_options_has_limits_default_and_help() -> None:
    share = next(option for option in list_options(Options) if option.name == "share")
    assert (share.kind, share.lowest, share.highest, share.default, share.help) == (float, 0.0, 0.9, 0.2, "Share.")


@pytest.mark.parametrize(
    ("name", "values"),
    [("share", ("0.0", "0.9")), ("count", ("1", "None")), ("shape", ("'round'", "'flat'"))],
)
def test_describe_kind_has_the_limits_or_choices(name: str, values: tuple[str, ...]) -> None:
    (option,) = [option for option in list_options(Options) if option.name == name]
    assert all(value in describe_kind(option) for value in values)


def test_make_options_preset_sets_the_options_that_are_not_given() -> None:
    made = make(preset="flat", count=3)
    assert (made.shape, made.share, made.count) == (Shape.FLAT, 0.5, 3)
    assert isinstance(made.shape, Shape)


def test_make_options_value_given_beside_a_preset_wins_even_if_it_is_the_default() -> None:
    assert make(preset="flat", share=0.2, shape="round") == make_options(
        Options, {"folder": "p", "files": ["a"], "preset": "flat", "shape": Shape.ROUND, "share": 0.2}, "work"
    )
    assert make(preset="flat", share=0.2).share == 0.2


def test_describe_preset_lists_what_it_sets_and_what_was_given_instead() -> None:
    assert describe_preset(make()) == describe_preset(make(preset="usual")) == ""
    described = describe_preset(make(preset="flat", share=0.2))
    assert all(part in described for part in ("flat", "--shape flat", "--share 0.5", "--share 0.2"))
    assert "--share 0.2" not in describe_preset(make(preset="flat"))
