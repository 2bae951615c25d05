"""Export of a tiny model with class names of odd characters, in every format, without a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from base.files import hash_file
from tests.train_head.synthetic import (
    SMALL_SIZE,
    build_small_backbone,
    choose_small_weights,
    draw_distance,
    make_small_card,
)
from train_head.export.config import Dtype, Format
from train_head.export.convert import build_function
from train_head.export.description import DESCRIPTION_FILE, ModelDescription, encode_description, find_versions
from train_head.export.formats import Source, import_format
from train_head.export.load import load_export
from train_head.export.stitch import save_model, stitch
from train_head.runs.card import LABELS_FILE, MODEL_FILE, format_labels
from train_head.solvers.head import restore_head

CONVERTED = (Format.SAVED_MODEL, Format.LITERT, Format.ONNX, Format.OPENVINO)
"""Formats that are converted in this process, without a network."""
ODD_CLASSES = ['red, "a" \\ b\nc', "blue \N{CAT FACE} \u0642\u0637\u0629", "green | `*_<b> \u5341 caf\udce9"]
"""Class names for red, blue and green pictures."""


def export_tiny(folder: Path, formats: Iterable[Format]) -> ModelDescription:
    """Write the model in all formats, and return its description.

    The model has the output `distance` in every format.
    """
    backbone = build_small_backbone()
    card = replace(make_small_card(3), classes=ODD_CLASSES, outlier_threshold=1.0)
    head = restore_head(choose_small_weights(3), (32,), 3, 0.2)
    model = folder / MODEL_FILE
    card = save_model(stitch(backbone, head, SMALL_SIZE, draw_distance(backbone, 3)), card, model)
    (folder / LABELS_FILE).write_bytes(format_labels(card.classes))
    description = ModelDescription(card, versions=find_versions(), has_distance=True)
    function = build_function(load_export(model)[1])
    for each in set(formats) - {Format.KERAS}:
        import_format(each).convert(Source(function, description, Dtype.FLOAT32), folder)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    description = replace(
        description,
        formats=dict.fromkeys(map(str, formats), str(Dtype.FLOAT32)),
        files={name: hash_file(folder / name) for name in names},
    )
    (folder / DESCRIPTION_FILE).write_bytes(encode_description(description))
    return description
