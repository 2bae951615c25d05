"""Formats of exported models.

The module of each format has two functions: `convert` writes the files of the format (all but Keras), and `load` opens
them with the format's own runtime.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

from base.errors import UsageError, build_package_error, require_extra
from base.target import Names
from train_head.data.batches import Array
from train_head.export.config import Dtype, Format
from train_head.export.description import ModelDescription
from train_head.export.outputs import Outputs
from train_head.runs.card import LABELS_FILE, MODEL_FILE, ModelCard

ALL_DTYPES = tuple(Dtype)


@dataclass(frozen=True)
class Source:
    """Model to convert."""

    function: Any
    """`tf.function` from `rgb`, (n, height, width, 3) float32 in 0-255, to the dictionary of named outputs."""
    description: ModelDescription
    """Description of the model, without the digests of the converted files."""
    dtype: Dtype
    """Number format of the weights."""
    model: Any = None
    """`keras.Model` whose weights the function uses."""
    pictures: Array | None = None
    """(n, image_size, image_size, 3) float32 pixels in 0-255, to measure activations on; None to measure none."""

    @property
    def card(self) -> ModelCard:
        """Card of the model."""
        return self.description.card

    def encode_description(self) -> str:
        """Return the content of model.json for the converted file: JSON on one line, in ASCII."""
        # Whoever gets a model file alone must not find out which pictures it was trained on.
        return json.dumps(replace(self.description, training=[]).to_json())


class FormatModule(Protocol):
    """Functions of the module of a format."""

    def convert(self, source: Source, folder: Path) -> None:
        """Write the model's files into a folder."""

    def load(self, path: Path) -> Callable[[Array], Outputs]:
        """Load a model with the format's runtime.

        Args:
            path: `FormatInfo.path` in the folder of an export.

        Returns:
            A function from (n, height, width, 3) float32 RGB pixels in 0-255 to the outputs; its probabilities are
            (n, classes).

        Raises:
            HeadstartError: the file is damaged.
        """


@dataclass(frozen=True)
class FormatInfo:
    """Files, packages and number formats of a format."""

    path: str
    """File or folder that is given to `predict`."""
    names: Names
    """All entries of the format in the folder of an export."""
    runtime: str = "tensorflow"
    """Package that runs the model."""
    converters: Sequence[str] = ()
    """Further packages that convert it."""
    extra: str = ""
    """Headstart's extra with these packages."""
    dtypes: Sequence[Dtype] = field(default=ALL_DTYPES)
    """Number formats of the weights."""

    def choose_dtype(self, dtype: Dtype) -> Dtype:
        """Return the number format of the weights if `dtype` is asked for: float32 if the format has no other."""
        return dtype if dtype in self.dtypes else Dtype.FLOAT32

    def measure_bytes(self, folder: Path) -> int:
        """Return the size of the format's files in the folder of an export, in bytes."""
        return sum((folder / name).stat().st_size for name in list_files(self.names))


_FLOAT32_ONLY = (Dtype.FLOAT32,)
_SAVED_MODEL_NAMES: Names = {
    "saved_model.pb": None,
    "fingerprint.pb": None,
    "variables": {"variables.data-00000-of-00001": None, "variables.index": None},
    "assets": {"labels.txt": None, "model.json": None},
}
_WEB_NAMES: Names = {
    **dict.fromkeys(("index.html", "style.css", "app.js", "headstart.js", "worker.js", "engine.js", "pictures.js")),
    **dict.fromkeys(("pixels.js", "package.json", "LICENSE", "NOTICE", "model.tflite", "model.json")),
    "runtime": dict.fromkeys(
        ("core.js", "wasm-utils.js", "litert_wasm_compat_internal.js", "litert_wasm_compat_internal.wasm")
    ),
}
FORMATS: Mapping[Format, FormatInfo] = {
    Format.KERAS: FormatInfo(MODEL_FILE, {MODEL_FILE: None}, dtypes=_FLOAT32_ONLY),
    Format.SAVED_MODEL: FormatInfo("saved_model", {"saved_model": _SAVED_MODEL_NAMES}, dtypes=_FLOAT32_ONLY),
    Format.LITERT: FormatInfo("model.tflite", {"model.tflite": None}, "ai_edge_litert", extra="litert"),
    Format.ONNX: FormatInfo("model.onnx", {"model.onnx": None}, "onnxruntime", ("onnx", "tf2onnx"), extra="onnx"),
    Format.OPENVINO: FormatInfo("model.xml", {"model.xml": None, "model.bin": None}, "openvino", extra="openvino"),
    Format.WEB: FormatInfo("web", {"web": _WEB_NAMES}),
}

TENSORFLOW_FORMATS = (Format.KERAS, Format.SAVED_MODEL)
"""Formats that TensorFlow runs."""


def parse_formats(text: str, dtype: Dtype) -> list[Format]:
    """Parse comma-separated formats, without repetitions, in the order of `Format`.

    Raises:
        UsageError: a format is unknown, its packages are not installed, or no format has this dtype.
        HeadstartError: the runtime of the web format cannot be fetched.
    """
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in list(Format)]:
        advice = "Give one or more of them, separated by commas"
        raise UsageError("--formats", f"formats among {', '.join(Format)}", repr(unknown[0]), advice)
    formats = [each for each in Format if each in names]
    if all(dtype not in FORMATS[each].dtypes for each in formats):
        able = ",".join(each for each in Format if dtype in FORMATS[each].dtypes)
        advice = f"Give --formats with one of {able}, or leave --dtype out"
        raise UsageError("--dtype", f"{Dtype.FLOAT32} for {','.join(formats)}", dtype, advice)
    missing = [each for each in formats if _list_missing(each)]
    if missing:
        packages = ", ".join(package for each in missing for package in _list_missing(each))
        listed = ",".join(missing)
        raise build_package_error(
            f"--formats {listed}",
            f"the packages {packages}",
            ",".join(FORMATS[each].extra for each in missing),
            f"export FORMATS={','.join(formats)}",
        )
    if Format.WEB in formats:
        from train_head.export.formats.web import fetch_runtime, find_node

        find_node()
        fetch_runtime()
    return formats


def _list_missing(each: Format) -> list[str]:
    """List the packages of a format that are not installed."""
    info = FORMATS[each]
    return [package for package in (info.runtime, *info.converters) if info.extra and find_spec(package) is None]


def require_packages(each: Format, packages: Iterable[str], where: str) -> None:
    """Raise UsageError if a package of a format is not installed; `where` needs it: an option, or the model."""
    info = FORMATS[each]
    for package in packages if info.extra else ():
        require_extra(package, where, f"export FORMATS={each}", info.extra)


def import_format(each: Format) -> FormatModule:
    """Import the module of a format."""
    return cast(FormatModule, importlib.import_module(f"{__name__}.{each}"))


def find_format(path: Path) -> Format | None:
    """Return the format whose name a file or folder has; None if there is none."""
    # An export may have been written into a folder with the name of a format.
    if (path / LABELS_FILE).exists():
        return None
    suffixes = {Path(info.path).suffix: each for each, info in FORMATS.items() if Path(info.path).suffix}
    folders = {info.path: each for each, info in FORMATS.items() if not Path(info.path).suffix}
    return suffixes.get(path.suffix) or folders.get(path.name)


def list_files(names: Names, prefix: str = "") -> list[str]:
    """List the relative paths of the files among entries, sorted."""
    found = []
    for name, inside in names.items():
        found += [prefix + name] if inside is None else list_files(inside, f"{prefix}{name}/")
    return sorted(found)
