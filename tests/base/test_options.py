"""Options from keywords: what is converted, and what is refused before any work."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import pytest
from typer import Option

from base.errors import UsageError
from base.options import list_options, make_options


class Shape(StrEnum):
    ROUND = "round"
    FLAT = "flat"


@dataclass(frozen=True)
class Options:
    place: Annotated[Path, Option(help="Where.")]
    files: Annotated[list[Path], Option(help="Which.")]
    shape: Annotated[Shape, Option(help="Shape.")] = Shape.ROUND
    share: Annotated[float, Option(min=0.0, max=0.9, help="Share.")] = 0.2
    count: Annotated[int | None, Option(min=1, help="Count.")] = None
    names: Annotated[str, Option(help="Names.")] = ""
    quick: Annotated[bool, Option("--quick", help="Quick.")] = False


def make(**values: Any) -> Options:
    return make_options(Options, {"place": "p", "files": ["a"], **values}, "work")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("place", PurePosixPath("x/y"), Path("x/y")),
        ("files", "a.jpg", [Path("a.jpg")]),
        ("files", (PurePosixPath("a"), "b"), [Path("a"), Path("b")]),
        ("shape", "flat", Shape.FLAT),
        ("shape", Shape.FLAT, Shape.FLAT),
        ("share", 0, 0.0),
        ("count", None, None),
        ("count", 3, 3),
        ("names", ["a", "b"], "a,b"),
        ("names", PurePosixPath("w.h5"), "w.h5"),
        ("quick", True, True),
    ],
)
def test_make_options_converts_a_value(name: str, value: object, expected: object) -> None:
    found = getattr(make(**{name: value}), name)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("place", 3),
        ("place", ""),
        ("files", 3),
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
def test_make_options_wrong_value_is_a_usage_error_with_the_value(name: str, value: object) -> None:
    with pytest.raises(UsageError) as raised:
        make(**{name: value})
    assert raised.value.where == name
    assert raised.value.got == repr(value if value != [3] else 3)


def test_make_options_unknown_keyword_is_a_type_error_that_names_the_nearest() -> None:
    with pytest.raises(TypeError, match="work.*'shap'.*'shape'"):
        make(shap="flat")


def test_make_options_missing_argument_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="work.*'files'"):
        make_options(Options, {"place": "p"}, "work")


def test_list_options_reads_limits_and_help() -> None:
    share = next(option for option in list_options(Options) if option.name == "share")
    assert (share.kind, share.lowest, share.highest, share.default, share.help) == (float, 0.0, 0.9, 0.2, "Share.")
