"""Check that a value read from JSON has the type and the range that its declaration gives."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints


def check_type(kind: Any, value: object, where: str) -> None:
    """Raise ValueError, with the place, where a value from JSON is not of a declared type.

    Args:
        kind: int, str, Any, `list[…]`, `dict[str, …]`, a union with None, a number annotated with (least, most), or a
            dataclass: a dictionary of its fields, of which those without a default are required and others ignored.
        value: the value.
        where: its name, for the error.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        check_type(parts[0], value, where)
        low, high = parts[1]
        if isinstance(value, int) and not low <= value <= high:
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
    elif kind is not Any and type(value) is not kind:
        raise ValueError(f"{where} is {value!r}, a value of another kind")
