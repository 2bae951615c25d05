"""The folder of an export: its files, and which of them may be replaced."""

from __future__ import annotations

from pathlib import Path

from base.errors import HeadstartError
from base.files import hash_file
from base.target import Names, Target
from train_head.export.description import DESCRIPTION_FILE, read_description
from train_head.export.formats import FORMATS, list_files
from train_head.runs.card import LABELS_FILE, MODEL_FILE, list_label_contents, read_card

PARITY_FILE, README_FILE = "parity.json", "README.md"
EXPORT_NAMES: Names = {
    **{name: inside for info in FORMATS.values() for name, inside in info.names.items()},
    **dict.fromkeys((LABELS_FILE, DESCRIPTION_FILE, PARITY_FILE, README_FILE)),
}
"""All entries of an export of all formats."""


def describe_target(out: Path) -> Target:
    """Describe the output folder of an export: the entries in it that may be replaced."""
    return Target(out, EXPORT_NAMES, refuse_foreign_files, "`out`")


def refuse_foreign_files(out: Path) -> None:
    """Raise HeadstartError if an entry of an export's folder was not written by an export, or was edited."""
    advice = "Move it, or give another `out`"
    if not (out / DESCRIPTION_FILE).exists():
        _refuse_foreign_files_of_earlier_versions(out, advice)
        return
    try:
        files = read_description(out / DESCRIPTION_FILE).files
    except HeadstartError as error:
        raise HeadstartError(error.where, "the description of an earlier export", error.got, advice) from error
    for name in list_files(EXPORT_NAMES):
        path = out / name
        if name == DESCRIPTION_FILE or not path.exists():
            continue
        if name not in files:
            raise HeadstartError(
                path, f"a file of the export that {DESCRIPTION_FILE} describes", "another file", advice
            )
        if hash_file(path) != files[name]:
            raise HeadstartError(path, "the file as it was exported", "different content", advice)


def _refuse_foreign_files_of_earlier_versions(out: Path, advice: str) -> None:
    """Check an export of a version that wrote model.keras and labels.txt only."""
    model, labels = out / MODEL_FILE, out / LABELS_FILE
    for name in list_files(EXPORT_NAMES):
        if name not in (MODEL_FILE, LABELS_FILE) and (out / name).exists():
            got = f"a file without {DESCRIPTION_FILE}"
            raise HeadstartError(out / name, "a file of an export", got, advice)
    if not model.exists():
        if not labels.exists():
            # Empty folders.
            return
        raise HeadstartError(labels, f"the {LABELS_FILE} of an export", f"a file without {MODEL_FILE}", advice)
    try:
        classes = read_card(model).classes
    except HeadstartError as error:
        raise HeadstartError(model, "an earlier export", error.got, advice) from error
    allowed = list_label_contents(classes)
    if labels.exists() and (labels.stat().st_size > max(map(len, allowed)) or labels.read_bytes() not in allowed):
        raise HeadstartError(labels, f"the class names of {model}", "different content", advice)
