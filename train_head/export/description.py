"""Description of an exported model for programs: `model.json`, beside the files of every format."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from base.errors import HeadstartError
from base.files import read_regular_file
from train_head.runs.card import ModelCard

DESCRIPTION_FILE = "model.json"
DESCRIPTION_VERSION = 1
DIGEST_LENGTH = 16
"""Number of hexadecimal digits that are kept of the SHA-256 of a training picture."""
_MAX_BYTES = 2**28
_PACKAGES = ("headstart", "keras", "tensorflow", "numpy")


@dataclass(frozen=True)
class ModelDescription:
    """Content of model.json."""

    card: ModelCard
    training: Sequence[str] = ()
    """First `DIGEST_LENGTH` hexadecimal digits of the SHA-256 of each training picture's file, sorted."""
    formats: dict[str, str] = field(default_factory=dict)
    """Number format of the weights of each exported format."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each model file, by its path in the folder of the export."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of Python and of the packages that wrote the model."""

    def to_json(self) -> dict[str, Any]:
        """Return the content of model.json."""
        card = self.card
        pixels = {"name": "rgb", "shape": [None, None, None, 3], "dtype": "float32", "range": [0, 255]}
        return {
            "version": DESCRIPTION_VERSION,
            "classes": card.classes,
            "input": pixels | {"channels": "RGB", "resized_to": card.image_size},
            **asdict(self),
        }


def find_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter for an exported model."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def encode_description(description: ModelDescription) -> bytes:
    """Return the bytes of model.json."""
    return json.dumps(description.to_json(), indent=2).encode()


def read_description(path: Path) -> ModelDescription:
    """Read a model.json.

    Raises:
        HeadstartError: the file is missing or was not written by an export.
    """
    try:
        values = json.loads(read_regular_file(path, _MAX_BYTES))
        if not isinstance(values, dict) or values.get("version") != DESCRIPTION_VERSION:
            raise ValueError("a file of another version")
        card = ModelCard(**values["card"])
        card.check()
        names = ("training", "formats", "files", "versions")
        return ModelDescription(card, **{name: values[name] for name in names})
    except (OSError, ValueError, TypeError, KeyError) as error:
        got = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        advice = "Keep the files of an export together, or export the run again"
        raise HeadstartError(path, "the description of an exported model", got, advice) from error
