"""Presets: one word for the options of extraction and training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any


class PresetName(StrEnum):
    """Name of a preset."""

    COURSE = "course"
    ACCURATE = "accurate"
    SMALL = "small"


@dataclass(frozen=True)
class Preset:
    """Options that a preset sets in each stage; all others keep their defaults."""

    extract: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)


_ACCURATE_CUTS = "mixed5,mixed6,mixed7,mixed8"
PRESETS: Mapping[PresetName, Preset] = MappingProxyType(
    {
        PresetName.COURSE: Preset(),
        PresetName.ACCURATE: Preset(
            extract={"image_size": 299, "cut": _ACCURATE_CUTS, "pool": "avg"},
            train={"cut": _ACCURATE_CUTS, "solver": "ridge"},
        ),
        PresetName.SMALL: Preset(
            extract={"image_size": 224, "cut": "mixed7", "pool": "avg"}, train={"cut": "mixed7", "solver": "ridge"}
        ),
    }
)
"""What each preset sets. `course` is the defaults."""
