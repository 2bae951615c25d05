"""Web format: a folder with a static page that runs the model in the visitor's browser, with LiteRT's runtime."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from types import MappingProxyType
from typing import IO, Any, cast

import numpy as np

from base.errors import HeadstartError, UsageError
from base.files import hash_file, read_regular_file
from base.npm import NpmPackage, fetch_package, find_cache_folder
from extract.config import MAX_PIXELS
from extract.decoding.policy import DecodePolicy, find_policy
from train_head.data.batches import Array
from train_head.export.config import Format
from train_head.export.formats import FORMATS, Source
from train_head.export.formats.litert import convert as convert_to_litert
from train_head.export.outputs import Outputs

CORE = NpmPackage("@litertjs/core", "2.5.3", "a97660833e9e7e1063c95e12016718881240b14f7438728a2f62785e912d30fd")
UTILS = NpmPackage("@litertjs/wasm-utils", "2.5.3", "ce2a1f8379c067be49e59752e5a7f40db6be09f6e497f0f11e59f17b515366a7")
"""LiteRT's runtime for browsers; decision 32 compares it with ONNX Runtime's."""
RUNTIME: Mapping[str, tuple[NpmPackage, str]] = MappingProxyType(
    {
        "core.js": (CORE, "dist/index.js"),
        "wasm-utils.js": (UTILS, "dist/index.js"),
        "litert_wasm_compat_internal.js": (CORE, "wasm/litert_wasm_compat_internal.js"),
        "litert_wasm_compat_internal.wasm": (CORE, "wasm/litert_wasm_compat_internal.wasm"),
    }
)
"""Package and path of each file of `runtime/`."""
_IMPORT = b'from "@litertjs/wasm-utils"'
_MODEL, _DESCRIPTION = "model.tflite", "model.json"
_MAX_BYTES = 2**26


def convert(source: Source, folder: Path) -> None:
    """Write the page, the runtime and the model into `web/`."""
    web = folder / FORMATS[Format.WEB].path
    write_scripts(web)
    card = source.card
    convert_to_litert(replace(source, function=_fix_size(source.function, card.image_size)), web)
    policy = find_policy(card.decode_policy) or DecodePolicy()
    description = {
        "classes": card.classes,
        "image_size": card.image_size,
        "is_multi_label": card.is_multi_label,
        "thresholds": card.thresholds,
        "outlier_threshold": card.outlier_threshold,
        "max_pixels": MAX_PIXELS,
        "sample_bits": policy.sample_bits,
        "decode_edition": policy.edition,
        "model": {
            "file": _MODEL,
            "bytes": (web / _MODEL).stat().st_size,
            "sha256": hash_file(web / _MODEL),
            "dtype": source.dtype.value,
        },
    }
    (web / _DESCRIPTION).write_text(json.dumps(description, indent=2))


def write_scripts(folder: Path) -> None:
    """Write the page and the runtime into a new folder.

    Raises:
        HeadstartError: the runtime cannot be fetched.
    """
    runtime = fetch_runtime()
    (folder / "runtime").mkdir(parents=True)
    for name, content in runtime.items():
        (folder / "runtime" / name).write_bytes(content)
    for entry in (files("train_head.export") / "page").iterdir():
        (folder / entry.name).write_bytes(entry.read_bytes())


def fetch_runtime() -> dict[str, bytes]:
    """Return the files of the runtime, from the npm packages in the cache, which are fetched if necessary.

    Raises:
        HeadstartError: a package cannot be fetched, or has another digest.
    """
    folder = find_cache_folder()
    contents = {}
    for package in (CORE, UTILS):
        path = fetch_package(package, folder, f"or put {package.file} of the npm package into {folder}")
        data = read_regular_file(path, _MAX_BYTES)
        found = hashlib.sha256(data).hexdigest()
        if found != package.sha256:
            expected = f"{package} with SHA-256 {package.sha256[:12]}…"
            advice = "Delete the file, and run the command again to download it"
            raise HeadstartError(path, expected, f"SHA-256 {found[:12]}…", advice)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for name, (source, inside) in RUNTIME.items():
                if source == package:
                    contents[name] = cast(IO[bytes], archive.extractfile(f"package/{inside}")).read()
    contents["core.js"] = contents["core.js"].replace(_IMPORT, b'from "./wasm-utils.js"')
    return contents


def find_node() -> str:
    """Return the path of Node.js.

    Raises:
        UsageError: it is not installed.
    """
    node = shutil.which("node")
    if node is None:
        advice = "Install Node.js 20 or later, or use another format"
        raise UsageError("the format web", "node on the PATH", "none", advice)
    return node


def load(path: Path) -> Callable[[Array], Outputs]:
    """Load a model in the runtime of the browser, under Node.js; see `FormatModule.load`.

    The scripts in the folder are not run: those of this version and of the npm packages run in their place, so that a
    page from an untrusted source is safe to open.
    """
    try:
        size = json.loads(read_regular_file(path / _DESCRIPTION, _MAX_BYTES))["image_size"]
        if type(size) is not int or size < 1:
            raise ValueError(f"image size {size!r}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        got, advice = str(error) or type(error).__name__, "Export the run again"
        raise HeadstartError(path / _DESCRIPTION, "the description of a page", got, advice) from error
    return NodeModel(path / _MODEL, size)


class NodeModel:
    """Model in a process of Node.js, which ends with this object; threads wait for each other."""

    def __init__(self, model: Path, size: int) -> None:
        """Start the process.

        Args:
            model: the model.tflite.
            size: side of its input, in pixels.

        Raises:
            HeadstartError: Node.js is missing, its runtime cannot run the model, or the disk is full.
        """
        self._model, self._lock = model, threading.Lock()
        held = ExitStack()
        weakref.finalize(self, held.close)
        try:
            folder = Path(held.enter_context(TemporaryDirectory(prefix="headstart-web-")))
            write_scripts(folder / "web")
            (folder / "run.mjs").write_bytes((files("train_head.export.formats") / "web_node.mjs").read_bytes())
        except OSError as error:
            where, got = gettempdir(), f"{error.strerror or error} in the folder {gettempdir()}"
            advice = "Free some space, or set TMPDIR to another folder"
            raise HeadstartError(where, "free space for the runtime of the page", got, advice) from error
        command = [find_node(), str(folder / "run.mjs"), str(folder / "web"), str(model), str(size)]
        self._errors = folder / "errors.txt"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        held.callback(_stop, self._process)
        self._num_classes, num_distances = np.frombuffer(self._read(8), "<i4").tolist()
        self._has_distance = num_distances > 0

    def __call__(self, images: Array) -> Outputs:
        """Return the outputs of pixels, (n, height, width, 3)."""
        with self._lock:
            rows = np.stack([self._run(pixels) for pixels in images])
        distances = rows[:, self._num_classes] if self._has_distance else None
        return Outputs(rows[:, : self._num_classes], distances)

    def _run(self, pixels: Array) -> Array:
        stream = cast(IO[bytes], self._process.stdin)
        # If the process has ended, _read raises the error.
        with suppress(BrokenPipeError):
            stream.write(np.array(pixels.shape[:2], "<i4").tobytes())
            stream.write(np.ascontiguousarray(pixels, "<f4").tobytes())
            stream.flush()
        return np.frombuffer(self._read(4 * (self._num_classes + self._has_distance)), "<f4")

    def _read(self, num_bytes: int) -> bytes:
        data = cast(IO[bytes], self._process.stdout).read(num_bytes)
        if len(data) == num_bytes:
            return data
        self._process.wait()
        lines = self._errors.read_bytes().decode(errors="replace").splitlines()
        reasons = [line.strip() for line in lines if "Error" in line] or ["no message"]
        got = f"exit status {self._process.returncode}: {reasons[0][:500]}"
        raise HeadstartError(self._model, "a model that LiteRT's runtime for browsers can run", got, "Export it again")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process, and close its pipes."""
    process.kill()
    process.communicate()


def _fix_size(function: Any, size: int) -> Any:
    """Return the function for one picture of a fixed size: the runtime does not resize inputs."""
    import tensorflow as tf

    signature = [tf.TensorSpec((1, size, size, 3), tf.float32, name="rgb")]
    return tf.function(function.python_function, input_signature=signature)
