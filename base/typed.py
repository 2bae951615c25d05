"""Check values from JSON against declared types and ranges."""

from __future__ import annotations

import math
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin, get_type_hints

Share = Annotated[float, (0, 1)]
Amount = Annotated[float, (0, math.inf)]
Count = Annotated[int, (0, math.inf)]


def check_type(kind: Any, value: object, where: str) -> None:
    """Raise ValueError where a value from JSON is not of a declared type.

    Args:
        kind: int, float (finite, or a whole number), bool, str, a number annotated with (least, most), `list[…]`,
            `dict[str, …]`, a union with None, or a dataclass for a dictionary of its fields, where unknown fields
            are ignored.
        value: the value.
        where: its name, for the error.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        check_type(parts[0], value, where)
        low, high = parts[1]
        # Sums of floats may be beyond a limit by their last digit.
        if not low - 1e-9 <= cast("float", value) <= high + 1e-9:
            raise ValueError(f"{where} is {value!r}, not within {low} to {high}")
    elif origin in (Union, UnionType):
        if value is None and NoneType in parts:
            return
        (some,) = [part for part in parts if part is not NoneType]
        check_type(some, value, where)
    elif origin is list and isinstance(value, list):
        for number, item in enumerate(value):
            check_type(parts[0], item, f"{where}[{number}]")
    elif origin is dict and isinstance(value, dict):
        for name, item in value.items():
            check_type(parts[1], item, f"{where}.{name}")
    elif is_dataclass(kind) and isinstance(value, dict):
        _check_fields(kind, value, where)
    elif kind is float and type(value) in (int, float):
        if not math.isfinite(cast("float", value)):
            raise ValueError(f"{where} is {value}")
    elif type(value) is not kind:
        raise ValueError(f"{where} is {value!r}, a value of another kind")


def _check_fields(kind: Any, value: dict[str, object], where: str) -> None:
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        if field.name in value:
            check_type(hints[field.name], value[field.name], f"{where}.{field.name}" if where else field.name)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"no {field.name} in {where or 'it'}")
