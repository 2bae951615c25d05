"""The code in the model card of the tiny export, and what it prints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from tests.train_head.export.conftest import Exported
from train_head.export.config import ExportConfig, Format
from train_head.export.description import ModelDescription
from train_head.export.open import open_model
from train_head.export.readme.write import ReadmeSources, format_readme
from train_head.runs.read import Run


def format_odd_readme(
    odd: tuple[Path, ModelDescription], exported: Exported, run: Path, formats: Sequence[Format] = ()
) -> str:
    """Format the card of the tiny model as if it were the export of a run, by default with all its formats."""
    folder, description = odd
    if formats:
        description = replace(description, formats=dict.fromkeys(map(str, formats), "float32"))
    opened = Run(run)
    sources = ReadmeSources(
        opened, opened.open_store(), description, exported.result, folder, ExportConfig(run, folder)
    )
    return format_readme(sources).decode()


def list_blocks(readme: str, language: str) -> dict[str, str]:
    """Return the code blocks of a language, with their titles as keys."""
    blocks = re.findall(rf"^\*\*(.*?)\*\*.*?\n```{language}\n(.*?)```$", readme, re.MULTILINE | re.DOTALL)
    assert len(blocks) == len(dict(blocks)) > 0
    return dict(blocks)


def expect_output(path: Path, description: ModelDescription) -> str:
    """Return what the code in a card prints for the picture beside a model."""
    pixels = np.asarray(Image.open(path.parent / "picture.jpg"), np.float32)[None]
    found = open_model(path).run(pixels)
    rows = zip(found.probabilities[0].tolist(), description.card.classes, strict=True)
    lines = [f"{value:.6f} {label}\n" for value, label in sorted(rows, reverse=True)]
    distance, threshold = found.distances, description.card.outlier_threshold
    if description.has_distance and distance is not None and threshold is not None and distance[0] > threshold:
        lines.append("none of these\n")
    return "".join(lines)


def parse_output(text: str) -> list[tuple[float, str]]:
    """Parse the printed rows; a class name may contain a line break."""
    return [
        (float(value), label)
        for value, label in re.findall(r"(\d\.\d{6}) (.*?)\n(?=\d\.\d{6} |none|\Z)", text, re.DOTALL)
    ]
