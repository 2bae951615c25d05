"""Write folders of pictures, classify them, and list results by path."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from base.terminal import Console, ConsoleOptions
from features.store import FeatureStore
from tests.pictures import draw_picture, encode
from train_head.predict.config import PredictConfig
from train_head.predict.run import predict_pictures

SMALL = ["--weights", "random", "--image-size", 75, "--cut", "mixed0"]
"""Options of the fastest extraction."""
_CAPABILITY_VERSION = 0x20080522
_READ_ANY_FILE = 0b110
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH; see capabilities(7)."""


def draw_new(number: int, label: str = "cats") -> bytes:
    """Draw a picture; its bytes are different for each number."""
    return encode(draw_picture(label, 500 + number), "JPEG")


def put_pictures(folder: Path, paths: Sequence[str]) -> None:
    """Write different pictures; the first part of each path is the class."""
    for number, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(draw_new(100 + number, path.split("/")[0]))


def predict(model: Path, *files: Path) -> dict[str, Any]:
    """Classify pictures, and return the result as `--json` prints it."""
    return predict_pictures(PredictConfig(list(files), model), Console(ConsoleOptions(quiet=True))).to_json()


def list_predicted(result: dict[str, Any], folder: Path) -> list[str]:
    """List the paths of classified pictures, relative to a folder."""
    return [found["image"].removeprefix(f"{folder}/") for found in result["predictions"]]


def list_reasons(files: list[dict[str, str]], name: str = "image", folder: Path | None = None) -> dict[str, str]:
    """Return reasons by path, relative to a folder, after a check that no path occurs twice."""
    reasons = {file[name].removeprefix(f"{folder}/"): file["reason"] for file in files}
    assert len(reasons) == len(files)
    return reasons


def list_stored(store: Path) -> list[str]:
    """List the paths of the stored pictures."""
    return [example.path for example in FeatureStore(store).examples]


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Capabilities(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def respect_permissions() -> Iterator[None]:
    """Make permissions apply to root too, in this thread and in threads that it starts."""
    if sys.platform != "linux" and hasattr(os, "geteuid") and os.geteuid():
        # Only root ignores permissions.
        yield
        return
    if sys.platform != "linux":
        pytest.skip("permissions cannot be taken away from this user")
    libc = ctypes.CDLL(None, use_errno=True)
    header, capabilities = _Header(_CAPABILITY_VERSION, 0), (_Capabilities * 2)()

    def call(function: Any) -> None:
        if function(ctypes.byref(header), capabilities):
            raise OSError(ctypes.get_errno(), "the capabilities of this thread are unchanged")

    call(libc.capget)
    effective = capabilities[0].effective
    capabilities[0].effective = effective & ~_READ_ANY_FILE
    call(libc.capset)
    try:
        yield
    finally:
        capabilities[0].effective = effective
        call(libc.capset)
