"""Copy the default data set, PyPI's `elpv-dataset`, into class folders.

It has 2,624 photographs of solar cells, each with the probability that the cell is defective. The 2,223 pictures with
probability 0 (functional) or 1 (defective) are used; the 401 with 1/3 or 2/3 are not. The pictures are licensed under
CC BY-NC-SA 4.0; they are copied from the installed package and are not part of this project.

Source: Buerhop-Lutz et al., "A Benchmark for Visual Identification of Defective Solar Cells in Electroluminescence
Imagery", EU PVSEC 2018. The columns of `labels.csv` are path, probability and type.
"""

from __future__ import annotations

import contextlib
import filecmp
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from base.command_line import run_app
from base.errors import HeadstartError
from base.terminal import Console, format_count

LABELS = {0.0: "functional", 1.0: "defective"}


@dataclass(frozen=True)
class ElpvConfig:
    """Options of `extract.demo_data`."""

    out: Annotated[Path, Option(help="Folder to create, with functional/ and defective/.")] = Path("data/elpv")
    remove: Annotated[bool, Option("--remove", help="Remove the copied pictures, and no other files.")] = False


def prepare_elpv(config: ElpvConfig, console: Console) -> Mapping[str, Any]:
    """Copy the default data set into class folders, or remove it."""
    spec, out = find_spec("elpv_dataset"), config.out
    if spec is None or spec.origin is None:
        command = shlex.join([sys.executable, "-m", "pip", "install", "elpv-dataset"])
        advice = f"Run `{command}`, or use your own pictures"
        raise HeadstartError("elpv-dataset", "an installed package", "none", advice)
    source = Path(spec.origin).parent / "data"
    labelled = list_labelled((source / "labels.csv").read_text())
    pairs = [(source / name, out / label / Path(name).name) for name, label in labelled]
    if config.remove:
        num_removed = sum(_remove(picture, target, out) for picture, target in pairs)
        for folder in (*(out / label for label in LABELS.values()), out):
            with contextlib.suppress(OSError):
                folder.rmdir()
        kept = ", kept other files" if out.exists() else ""
        console.info(f"{out}: removed {format_count(num_removed, 'picture')} of elpv-dataset{kept}")
        return {"removed": num_removed, "folder": str(out)}
    for picture, target in pairs:
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}")
            shutil.copyfile(picture, partial)
            partial.replace(target)
    console.info(f"{out}: {format_count(len(pairs), 'picture')} of elpv-dataset (CC BY-NC-SA 4.0)")
    return {"images": len(pairs), "folder": str(out)}


def _remove(picture: Path, target: Path, out: Path) -> bool:
    """Remove a copy if it equals the picture in the package and is not behind a link; return whether it was removed."""
    is_link = any(path.is_symlink() for path in (out, target.parent, target))
    is_same = not is_link and target.is_file() and filecmp.cmp(picture, target, shallow=False)
    if is_same:
        target.unlink()
    return is_same


def list_labelled(table: str) -> list[tuple[str, str]]:
    """List (path, label) of the pictures with probability 0 or 1, in the order of the table."""
    rows = (line.split() for line in table.splitlines() if line.strip())
    return [(path, LABELS[float(probability)]) for path, probability, _ in rows if float(probability) in LABELS]


if __name__ == "__main__":
    run_app(prepare_elpv, ElpvConfig, "python -m extract.demo_data")
