"""Folders of pictures, and what extraction and `predict` make of them in this process."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

import pytest

from base.command_line import CommandFailed
from base.terminal import Console, ConsoleOptions
from extract.config import ExtractConfig
from extract.run import ExtractResult, extract_features
from features.store import FeatureStore
from tests.inputs.commands import Done
from tests.pictures import draw_picture, encode
from train_head.config import PredictConfig
from train_head.predict.__main__ import predict

Config = TypeVar("Config")


def configure(images: Path, store: Path) -> ExtractConfig:
    """What of extraction costs least, with any number of bad pictures."""
    return ExtractConfig(images, store, weights="random", image_size=75, cut="mixed0", max_bad=1.0)


def extract_small(images: Path, store: Path) -> ExtractResult:
    return extract_features(configure(images, store), Console(ConsoleOptions(quiet=True)))


def run_here(act: Callable[[Config, Console], Mapping[str, Any]], config: Config) -> Done:
    """Runs a command in this process, with `--json` and `-v`."""
    out, err = io.StringIO(), io.StringIO()
    console = Console(ConsoleOptions(json=True, verbose=True))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setenv("COLUMNS", "500")
        try:
            result, status = act(config, console), 0
        except CommandFailed as failure:
            result, status = failure.result, 1
        console.show_result(result)
    return Done(status, out.getvalue(), err.getvalue())


def predict_all(model: Path, *files: Path) -> dict[str, Any]:
    """Predicts, also where some pictures are bad."""
    try:
        return dict(predict(PredictConfig(list(files), model), Console(ConsoleOptions(quiet=True))))
    except CommandFailed as failure:
        return dict(failure.result)


def list_reasons(failed: list[dict[str, str]], name: str = "image", folder: Path | None = None) -> dict[str, str]:
    """Reasons by path; each file is there once."""
    found = {file[name].removeprefix(f"{folder}/"): file["reason"] for file in failed}
    assert len(found) == len(failed)
    return found


def list_stored(store: Path) -> list[tuple[str, str]]:
    return [(example.path, example.label) for example in FeatureStore(store).examples]


def draw_new(number: int, label: str = "cats") -> bytes:
    """Draws a picture that no other number gives."""
    return encode(draw_picture(label, 500 + number), "JPEG")


def put_pictures(folder: Path, paths: Sequence[str]) -> None:
    """Puts pictures into a folder, each another, of the class that the first part of its path names."""
    for number, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(draw_new(100 + number, path.split("/")[0]))
