"""Kill exports with SIGKILL at random moments: the old or the new export is complete afterwards.

Run `python -m tests.torture.kill_export`. Unlike the other workloads, the exports are whole processes with converters
in child processes, and the backbone is InceptionV3 up to an early layer.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from base.files import hash_file
from base.replace import recover_target
from base.target import check_target
from tests.pictures import fill_folder
from train_head.export.config import Format
from train_head.export.description import DESCRIPTION_FILE, read_description
from train_head.export.formats import FORMATS, list_files
from train_head.export.target import EXPORT_NAMES, describe_target
from train_head.runs.card import LABELS_FILE, format_labels

CLASSES = ("cats", "dogs"), ("cats", "owls")
FEATURES = ("--weights", "random", "--image-size", "75", "--cut", "mixed0")
HEAD = ("--solver", "reduced", "--epochs", "2", "--units", "4", "--no-report")


def run_module(module: str, *arguments: object) -> None:
    """Run a command to its end."""
    subprocess.run([sys.executable, "-m", module, *map(str, arguments), "-q"], check=True)


def make_run(folder: Path, classes: tuple[str, str]) -> Path:
    """Create a run on features of generated pictures, and return its path."""
    counts = {f"{split}/{label}": count for split, count in (("train", 6), ("validation", 4)) for label in classes}
    fill_folder(folder / "pictures", counts)
    run_module("extract", "--images", folder / "pictures", "--store", folder / "store", *FEATURES)
    run_module("train_head", "--store", folder / "store", "--run", folder / "run", *HEAD)
    return folder / "run"


def inspect_export(out: Path, formats: list[Format]) -> list[str]:
    """Return the classes of an export; raise AssertionError if it is not complete."""
    target = describe_target(out)
    recover_target(target)
    check_target(target)
    description = read_description(out / DESCRIPTION_FILE)
    found = {name for name in list_files(EXPORT_NAMES) if (out / name).exists()} - {DESCRIPTION_FILE}
    if found != description.files.keys() or any(hash_file(out / name) != description.files[name] for name in found):
        raise AssertionError(f"files {sorted(found)} differ from {DESCRIPTION_FILE}")
    if missing := [each for each in formats if not (out / FORMATS[each].path).exists()]:
        raise AssertionError(f"no file of {missing}")
    if (out / LABELS_FILE).read_bytes() != format_labels(description.card.classes):
        raise AssertionError("labels of another export")
    return description.card.classes


def kill_exports(folder: Path, formats: list[Format], num_kills: int, seed: int) -> dict[str, int]:
    """Kill exports of two runs into one folder, and return how often the old and the new export was found."""
    out, rng = folder / "exports" / "model", random.Random(seed)
    runs = {label: make_run(folder / label, (first, label)) for first, label in CLASSES}
    command: list[object] = [
        sys.executable,
        "-m",
        "train_head.export",
        "--out",
        out,
        "--formats",
        ",".join(formats),
        "-q",
    ]
    durations = []
    for run in runs.values():
        started = time.monotonic()
        subprocess.run([*map(str, command), "--run", run], check=True)
        durations.append(time.monotonic() - started)
    counts: Counter[str] = Counter(old=0, new=0)
    for _ in range(num_kills):
        old = inspect_export(out, formats)[1]
        (new,) = (label for label in runs if label != old)
        with subprocess.Popen([*map(str, command), "--run", runs[new]], stderr=subprocess.DEVNULL) as export:
            time.sleep(rng.uniform(0, 1.05 * max(durations)))
            export.kill()
        found = inspect_export(out, formats)[1]
        counts["old" if found == old else "new"] += 1
    # An export of another run removes what earlier ones left; the same one would be kept.
    (other,) = (label for label in runs if label != inspect_export(out, formats)[1])
    subprocess.run([*map(str, command), "--run", runs[other]], check=True)
    if left := [path.name for path in out.parent.iterdir() if path != out]:
        raise AssertionError(f"files left: {left}")
    return dict(counts)


def main() -> None:
    """Print the counts as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", default="keras,saved_model,openvino")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        formats = [Format(name) for name in options.formats.split(",")]
        print(json.dumps(kill_exports(Path(folder), formats, options.kills, options.seed)))


if __name__ == "__main__":
    main()
