"""Validate values read from JSON against type annotations."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints


def check_type(kind: Any, value: object, where: str) -> None:
    """Check that a value read from JSON has the declared type.

    Args:
        kind: int, str, Any, `list[…]`, `dict[str, …]`, a union with None, a number annotated with (minimum, maximum),
            or a dataclass. A dataclass describes a dictionary: fields without a default are required, and other keys
            are ignored.
        value: the value.
        where: name of the value, for the error message.

    Raises:
        ValueError: the value has another type or is out of range; the message names the place.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        check_type(parts[0], value, where)
        low, high = parts[1]
        if isinstance(value, int | float) and not low <= value <= high:
            raise ValueError(f"{where} is {value!r}, expected {low} to {high}")
    elif origin in (Union, UnionType):
        if value is not None or NoneType not in parts:
            (inner,) = [part for part in parts if part is not NoneType]
            check_type(inner, value, where)
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
                raise ValueError(f"{f'{where}.' if where else ''}{field.name} is missing")
    elif kind is not Any and type(value) is not kind:
        raise ValueError(f"{where} is {value!r}, expected {getattr(kind, '__name__', kind)}")
