"""Open an exported model of any format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from base.errors import HeadstartError, UsageError
from base.files import hash_file
from base.invocation import suggest_beside
from base.terminal import import_quietly
from extract.decoding.convert import Pixels
from extract.pixels import resize_pixels
from train_head.data.batches import Array
from train_head.export.config import Format
from train_head.export.description import DESCRIPTION_FILE, ModelDescription, read_description
from train_head.export.formats import (
    FORMATS,
    TENSORFLOW_FORMATS,
    find_format,
    import_format,
    list_files,
    require_packages,
)
from train_head.export.outputs import Outputs
from train_head.runs.card import ModelCard, read_card


@dataclass(frozen=True)
class ExportedModel:
    """Exported model, loaded by the runtime of its format."""

    path: Path
    """File or folder of the model."""
    format: Format
    card: ModelCard
    description: ModelDescription | None
    """Content of the model.json beside it; None for a model.keras without one, or beside that of another model."""
    run: Callable[[Array], Outputs]
    """Function from (n, height, width, 3) float32 RGB pixels in 0-255 to outputs, with (n, classes) probabilities."""

    def resize(self, pixels: Pixels) -> Array:
        """Resize a decoded picture, (height, width, 3) uint8, to the size of the model, as the model would."""
        return resize_pixels(pixels, self.card.image_size)


def open_model(path: Path, *, has_features: bool = False) -> ExportedModel:
    """Open an exported model.

    Args:
        path: file or folder of a format, or the folder of an export, of which the first format is opened.
        has_features: whether the outputs have the features too; only model.keras has them.

    Raises:
        UsageError: the path has no exported model, or the runtime of its format is not installed.
        HeadstartError: the files are damaged, or do not belong together.
    """
    path, each = locate_model(path)
    require_packages(each, [FORMATS[each].runtime], str(path))
    card, description = _read_keras(path) if each is Format.KERAS else _read_converted(path, each)
    if each in TENSORFLOW_FORMATS:
        import_quietly("tensorflow")
    if has_features and each is Format.KERAS:
        from train_head.export.formats.keras import load_with_features as load
    else:
        load = import_format(each).load
    return ExportedModel(path, each, card, description, load(path))


def locate_model(path: Path) -> tuple[Path, Format]:
    """Return the file or folder of a format, and the format.

    Raises:
        UsageError: the path has no exported model.
    """
    each = find_format(path)
    if each is None and path.is_dir():
        found = [(path / info.path, each) for each, info in FORMATS.items() if (path / info.path).exists()]
        if found:
            return found[0]
    if not path.exists():
        beside = suggest_beside(path if each is None else path.parent, DESCRIPTION_FILE, "OUT")
        advice = f"Export a run first{beside or ', or check the path'}"
        raise UsageError(path, "an exported model", "no such file or folder", advice)
    if each is None:
        names = ", ".join(info.path for info in FORMATS.values())
        raise UsageError(path, f"an exported model: {names}", "another file or folder", "Check the path")
    return path, each


def _read_keras(path: Path) -> tuple[ModelCard, ModelDescription | None]:
    """Read the card of a model.keras, and the description beside it if it is that of this model."""
    card, beside = read_card(path), path.parent / DESCRIPTION_FILE
    description = read_description(beside, follow=True) if beside.exists() else None
    return card, description if description and description.card == card else None


def _read_converted(path: Path, each: Format) -> tuple[ModelCard, ModelDescription]:
    """Read the description beside a model of another format, and compare the files with it."""
    if path.name != FORMATS[each].path:
        got, advice = "another name", "Rename it, and keep the files of an export together"
        raise UsageError(path, f"the name {FORMATS[each].path}", got, advice)
    folder = path.parent
    # In the cache of the Hugging Face Hub, all files are links.
    description = read_description(folder / DESCRIPTION_FILE, follow=True)
    for name in list_files(FORMATS[each].names):
        file, expected = folder / name, description.files.get(name)
        found = hash_file(file) if file.is_file() else None
        if found != expected:
            got = "a file that was changed after export" if found else "no file"
            raise HeadstartError(file, f"the file that {DESCRIPTION_FILE} describes", got, "Export the run again")
    return description.card, description
