"""Validate values from JSON against type annotations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest

from base.typed import check_type

pytestmark = pytest.mark.unit


@dataclass
class Inner:
    count: Annotated[int, (1, 10)]
    text: str = ""


@dataclass
class Outer:
    inner: Inner
    items: list[Inner] = field(default_factory=list)
    names: dict[str, str | None] = field(default_factory=dict)
    anything: Any = None


VALUE = {"inner": {"count": 1}, "items": [{"count": 10, "text": "a"}], "names": {"a": None, "b": "c"}, "other": 1}


@pytest.mark.parametrize("value", [VALUE, {"inner": {"count": 5}}, {"inner": {"count": 5}, "anything": [1, "a"]}])
def test_check_type_valid_value_passes(value: object) -> None:
    check_type(Outer, value, "")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"inner": None}, "inner"),
        ({"inner": {}}, "inner.count"),
        ({"inner": {"count": 0}}, "inner.count"),
        ({"inner": {"count": 11}}, "inner.count"),
        ({"inner": {"count": True}}, "inner.count"),
        ({"inner": {"count": 1, "text": 2}}, "inner.text"),
        ({"items": {}}, "items"),
        ({"items": [{"count": 1}, {"count": "1"}]}, "items[1].count"),
        ({"names": []}, "names"),
        ({"names": {"a": 1}}, "names.a"),
    ],
)
def test_check_type_invalid_value_is_an_error_with_its_place(change: dict[str, object], where: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the place is checked below
        check_type(Outer, VALUE | change, "")
    assert str(caught.value).split(" ")[0] == where
