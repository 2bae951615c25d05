"""Folder in which the snippets of a page run: pictures, a store, a run and a model, and a small backbone."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from extract.weights.find import Weights, WeightsName
from tests.backbones import build_small_backbone
from tests.commands import run_command
from tests.docs.blocks import ROOT
from tests.make import RECORD_ARGUMENTS
from tests.pictures import fill_folder
from train_head.evaluation.plots import save_png
from train_head.export.config import Dtype, Format
from train_head.export.convert import build_function
from train_head.export.description import DESCRIPTION_FILE, read_description
from train_head.export.formats import FORMATS, Source, import_format
from train_head.export.load import load_export
from train_head.report.figures import encode_svg
from train_head.runs.card import MODEL_FILE, read_card

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMMANDS = {
    "extract.__main__": "--images pictures --store work/store",
    "train_head.__main__": "--store work/store --run work/run",
    "train_head.export.__main__": "--run work/run --out work/model",
}
"""Commands that make what most pages start from."""


class _Memory:
    """Slow work that is done once for all pages."""

    def __init__(self) -> None:
        self._figures: dict[str, str] = {}
        self._curves = b""
        self._converted: dict[tuple[str, Format, Dtype], dict[str, bytes]] = {}

    def encode_svg(self, figure: Figure, name: str) -> str:
        """Draw each figure of a report only in the first report that has it."""
        if name not in self._figures:
            self._figures[name] = encode_svg(figure, name)
        return self._figures[name]

    def save_curves(self, figure: Figure, path: Path) -> None:
        """Draw the curves of the first run for all runs."""
        if not self._curves:
            save_png(figure, path)
            self._curves = path.read_bytes()
        path.write_bytes(self._curves)

    def convert(self, each: Format, source: Path, folder: Path, dtype: Dtype) -> None:
        """Convert an exported model in this process, where the backbone is small, or copy the files of its run."""
        key = (read_card(source / MODEL_FILE).run, each, dtype)
        if key not in self._converted:
            _, model = load_export(source / MODEL_FILE)
            description = read_description(source / DESCRIPTION_FILE)
            chosen = FORMATS[each].choose_dtype(dtype)
            import_format(each).convert(Source(build_function(model), description, chosen, model), folder)
            files = [path for path in folder.rglob("*") if path.is_file()]
            self._converted[key] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
        for name, data in self._converted[key].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)


_MEMORY = _Memory()
_BUILD_ONCE = {
    module: functools.cache(build_small_backbone)
    for module in ("extract.backbone", "extract.cut_backbone", "train_head.export.load")
}


def _find_random_weights(*_: Any) -> Weights:
    return Weights(WeightsName.RANDOM)


@contextmanager
def enter(folder: Path) -> Iterator[None]:
    """Work in a folder, with a small backbone of random weights in place of InceptionV3 with those that a page names.

    `tests/headstart/test_wheel.py` runs the script of the README with InceptionV3.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("train_head.finetuning.backbone.build_backbone", build_small_backbone)
        for module, build in _BUILD_ONCE.items():
            patch.setattr(f"{module}.build_backbone", build)
        for module in ("extract.run", "train_head.finetuning.backbone"):
            patch.setattr(f"{module}.find_weights", _find_random_weights)
        # `data/elpv` has the small pictures.
        patch.setattr("headstart.demo.prepare_elpv", lambda *_: None)
        # The process of the trial would take a quarter of a minute. tests/headstart/doctor runs its stages.
        patch.setattr("headstart.doctor.trial.open_trial", lambda: nullcontext(list))
        patch.setattr("headstart.doctor.weights.check_sources", lambda *_, **__: [])
        patch.setattr("train_head.report.page.encode_svg", _MEMORY.encode_svg)
        patch.setattr("train_head.evaluation.plots.save_png", _MEMORY.save_curves)
        patch.setattr("train_head.export.convert.convert_aside", _MEMORY.convert)
        yield


def make_workplace(folder: Path) -> None:
    """Fill a folder with what the pages start from."""
    fill_folder(folder / "pictures", {"cats": 9, "dogs": 9})
    for name in ("cats_dogs", "data/elpv", "chest"):
        shutil.copytree(folder / "pictures", folder / name)
    fill_folder(folder / "dogs", {"dogs": 8})
    fill_folder(folder, {"unlabelled/owls": 5, "new/owls": 5})
    for name, source in {"a.jpg": "cats/000.jpg", "b.jpg": "dogs/000.jpg"}.items():
        shutil.copy(folder / "pictures" / source, folder / name)
    write_labels(folder)
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "python").write_text(RECORD_ARGUMENTS)
    (folder / "python").chmod(0o755)
    with enter(folder):
        for module, arguments in COMMANDS.items():
            result = run_command(module, *arguments.split())
            assert result.status == 0, result.err
    shutil.copytree(folder / "work/store", folder / "work/one")
    shutil.copytree(folder / "work/store", folder / "work/other")


def copy_demo(folder: Path) -> None:
    """Copy store, run and model to the default folders of make, for a page that a reader opens after the demo."""
    for name in ("store", "run", "model"):
        shutil.copytree(folder / "work" / name, folder / "work/elpv" / name)


def write_labels(folder: Path) -> None:
    """Write the tables of labels that the pages name."""
    pictures = sorted(path.relative_to(folder / "pictures") for path in folder.glob("pictures/*/*"))
    tags = {path.as_posix(): "|".join([path.parent.name, *["indoors"] * (int(path.stem) % 2)]) for path in pictures}
    findings = {path.as_posix(): path.parent.name for path in pictures}
    breeds = {path.stem: "ab"[number % 2] * 3 for number, path in enumerate(sorted(folder.glob("dogs/*/*")))}
    write_table(folder / "labels.csv", ("file", "tags"), tags)
    write_table(folder / "Data_Entry_2017.csv", ("Image Index", "Finding Labels"), findings)
    write_table(folder / "dogs/labels.csv", ("id", "breed"), breeds)


def write_table(path: Path, header: tuple[str, str], rows: Mapping[str, str]) -> None:
    path.write_text("".join(f"{key},{value}\n" for key, value in [header, *rows.items()]))
