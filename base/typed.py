"""Check that a value read from JSON has the type and the range that its declaration gives."""

from __future__ import annotations

import math
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

Share = Annotated[float, (0, 1)]
Amount = Annotated[float, (0, math.inf)]
Count = Annotated[int, (0, math.inf)]


def check_type(kind: Any, value: object, where: str) -> None:
    """Raise ValueError, with the place, where a value from JSON is not of a declared type.

    Args:
        kind: int, float (finite, or a whole number), bool, str, a StrEnum, Any, `list[…]`, `dict[str, …]`, a union
            with None, a number annotated with (least, most) or a typer option's min and max, or a dataclass: a
            dictionary of its fields, of which those without a default are required and others ignored.
        value: the value.
        where: its name, for the error.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        check_type(parts[0], value, where)
        limits = parts[1] if isinstance(parts[1], tuple) else (parts[1].min, parts[1].max)
        low, high = (-math.inf if limits[0] is None else limits[0]), (math.inf if limits[1] is None else limits[1])
        # Sums of floats may be beyond a limit by their last digit.
        if isinstance(value, int | float) and not low - 1e-9 <= value <= high + 1e-9:
            raise ValueError(f"{where} is {value!r}, not within {low} to {high}")
    elif origin in (Union, UnionType):
        if value is not None or NoneType not in parts:
            (some,) = [part for part in parts if part is not NoneType]
            check_type(some, value, where)
    elif origin is list and isinstance(value, list):
        for number, item in enumerate(value):
            check_type(parts[0], item, f"{where}[{number}]")
    elif origin is dict and isinstance(value, dict):
        for name, item in value.items():
            check_type(parts[1], item, f"{where}.{name}")
    elif is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            if field.name in value:
                check_type(hints[field.name], value[field.name], f"{where}.{field.name}" if where else field.name)
            elif field.default is MISSING and field.default_factory is MISSING:
                raise ValueError(f"no {field.name} in {where or 'it'}")
    elif kind is float and type(value) in (int, float):
        if type(value) is float and not math.isfinite(value):
            raise ValueError(f"{where} is {value}")
    elif isinstance(kind, type) and issubclass(kind, StrEnum):
        if value not in list(kind):
            raise ValueError(f"{where} is {value!r}, not one of {', '.join(kind)}")
    elif kind is not Any and type(value) is not kind:
        raise ValueError(f"{where} is {value!r}, a value of another kind")
