"""Open an exported model of any format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from base.errors import HeadstartError, UsageError
from base.files import hash_file
from base.terminal import import_quietly
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
    """Content of the model.json beside it; None for a lone model.keras."""
    run: Callable[[Array], Outputs]
    """Function from (n, height, width, 3) float32 RGB pixels in 0-255 to outputs, with (n, classes) probabilities."""


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
    require_packages(each, [FORMATS[each].runtime])
    folder = path.parent
    description = None
    if each is not Format.KERAS or (folder / DESCRIPTION_FILE).exists():
        # In the cache of the Hugging Face Hub, all files are links.
        description = read_description(folder / DESCRIPTION_FILE, follow=True)
    if each is not Format.KERAS and description:
        _require_unchanged(folder, each, description)
    card = read_card(path) if each is Format.KERAS else description.card if description else None
    if card is None:
        raise HeadstartError(path, "a description beside it", "none", "Export the run again")
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
        raise UsageError(path, "an exported model", "no such file or folder", "Export a run first, or check the path")
    if each is None:
        names = ", ".join(info.path for info in FORMATS.values())
        raise UsageError(path, f"an exported model: {names}", "another file or folder", "Check the path")
    return path, each


def _require_unchanged(folder: Path, each: Format, description: ModelDescription) -> None:
    for name in list_files(FORMATS[each].names):
        expected = description.files.get(name)
        if (folder / name).exists() or expected:
            found = hash_file(folder / name) if (folder / name).is_file() else "no file"
            if found != expected:
                got = "no file" if found == "no file" else "a file that was changed after export"
                advice = "Export the run again"
                raise HeadstartError(folder / name, f"the file that {DESCRIPTION_FILE} describes", got, advice)
