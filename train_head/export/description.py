"""Description of an exported model for programs: `model.json`, beside the files of every format.

docs/how-to/export.md describes each field.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from base.errors import HeadstartError
from base.files import read_regular_file
from base.typed import check_type
from base.version import find_version
from train_head.export.config import Format
from train_head.export.outputs import DISTANCE, PROBABILITY
from train_head.runs.card import ModelCard

DESCRIPTION_FILE = "model.json"
DESCRIPTION_VERSION = 1
DIGEST_LENGTH = 16
"""Number of hexadecimal digits that are kept of the SHA-256 of a training picture."""
_MAX_BYTES = 2**28
_PACKAGES = ("keras", "tensorflow", "numpy")
_INPUT = {"name": "rgb", "shape": [None, None, None, 3], "dtype": "float32", "range": [0, 255], "channels": "RGB"}


@dataclass(frozen=True)
class ModelDescription:
    """Content of model.json."""

    card: ModelCard
    training: list[str] = field(default_factory=list)
    """First `DIGEST_LENGTH` hexadecimal digits of the SHA-256 of each training picture's file, sorted."""
    formats: dict[str, str] = field(default_factory=dict)
    """Number format of the weights of each exported format."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each other file of the export, by its path in the folder."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of Python and of the packages that wrote the model."""
    temperature: float = 1.0
    """Divisor of the logits that calibrates the probabilities; the model contains it."""
    has_distance: bool = False
    """Whether model.keras has the output `distance`; the other formats have it if there is an outlier threshold."""

    def to_json(self) -> dict[str, Any]:
        """Return the content of model.json, with the digest over all other entries."""
        card = self.card
        resize = {"size": card.image_size, "method": "bilinear", "antialias": False, "keeps_proportions": False}
        fingerprints = {"store": card.fingerprint, "head": card.run, "weights": card.weights_sha256}
        values = {
            "version": DESCRIPTION_VERSION,
            "classes": card.classes,
            "is_multi_label": card.is_multi_label,
            "thresholds": card.thresholds,
            "outlier_threshold": card.outlier_threshold,
            "temperature": self.temperature,
            "input": {**_INPUT, "resize": resize},
            "outputs": {name: self.list_outputs(Format(name)) for name in self.formats},
            "formats": self.formats,
            "fingerprints": fingerprints,
            "versions": self.versions,
            "has_distance": self.has_distance,
            "card": asdict(card),
            "files": self.files,
            "training": self.training,
        }
        return {**values, "digest": _compute_digest(values)}

    def list_outputs(self, each: Format) -> dict[str, list[int | None]]:
        """Return the shape of each named output of a format; None for the number of pictures.

        With one output, model.keras returns an array instead of a dictionary.
        """
        num_columns, is_keras = len(self.card.classes), each is Format.KERAS
        if is_keras and num_columns == 2 and not self.card.is_multi_label:
            num_columns = 1
        has_distance = self.has_distance if is_keras else self.card.outlier_threshold is not None
        return {PROBABILITY: [None, num_columns], **({DISTANCE: [None, 1]} if has_distance else {})}


def find_versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions of Headstart, Python, the packages that every export imports, and further packages."""
    found = {"headstart": find_version("headstart"), "python": platform.python_version()}
    # TensorFlow has distributions of several names.
    distributions = _map_packages()
    for package in (*_PACKAGES, *packages):
        with suppress(PackageNotFoundError):
            found[package] = version(distributions.get(package, [package])[0])
    return found


@functools.cache
def _map_packages() -> Mapping[str, list[str]]:
    """Map packages to their distributions, which reads the metadata of all that are installed (about 1 s)."""
    return packages_distributions()


def encode_description(description: ModelDescription) -> bytes:
    """Return the bytes of model.json: each field on a line of its own, objects on several."""

    def encode(value: Any) -> str:
        text = json.dumps(value, indent=2 if isinstance(value, dict) else None, ensure_ascii=False)
        return text.replace("\n", "\n  ")

    lines = [f"  {json.dumps(name)}: {encode(value)}" for name, value in description.to_json().items()]
    # Bytes that are not UTF-8 become escapes of JSON, such as \udce9.
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode("utf-8", "backslashreplace")


def read_description(path: Path, *, follow: bool = False) -> ModelDescription:
    """Read a model.json, which may be a symbolic link only with `follow`.

    Raises:
        HeadstartError: the file is missing, was not written by an export, was edited, or has a newer version.
    """
    try:
        return parse_description(read_regular_file(path, _MAX_BYTES, follow=follow))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        got = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        advice = "Keep the files of an export together, or export the run again"
        raise HeadstartError(path, "the description of an exported model", got, advice) from error


def parse_description(data: bytes) -> ModelDescription:
    """Parse the bytes of a model.json.

    Raises:
        ValueError, TypeError, KeyError, RecursionError: they are not a description of this version, or were edited.
    """
    values = json.loads(data)
    if not isinstance(values, dict) or type(values.get("version")) is not int:
        raise ValueError("a file without a version")
    if values["version"] != DESCRIPTION_VERSION:
        raise ValueError(f"version {values['version']}, which this version of Headstart does not read")
    if values.get("digest") != _compute_digest({name: value for name, value in values.items() if name != "digest"}):
        raise ValueError("a file that was edited: its SHA-256 digest does not match")
    check_type(ModelDescription, values, "")
    card = ModelCard(**values["card"])
    card.check()
    names = ("training", "formats", "files", "versions", "temperature", "has_distance")
    return ModelDescription(card, **{name: values[name] for name in names})


def _compute_digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
