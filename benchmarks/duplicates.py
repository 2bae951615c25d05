"""Error rates of near-duplicates: copies that are missed, by kind of change, and pictures that are reported wrongly.

Run `python -m benchmarks.duplicates --images FOLDER`. The folder may hold any pictures; copies are made from them.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from typer import Option

from base.command_line import run_app
from base.terminal import Console
from extract.config import ExtractConfig
from extract.images.recognize import list_extensions
from features.options import Pool
from features.store import FeatureStore
from train_head.data.batches import Array
from train_head.evaluation.neighbours import NEAR, find_neighbours, group_rows
from train_head.report.duplicates import measure_typical_similarity

ORIGINALS = "originals"


@dataclass(frozen=True)
class DuplicatesBenchmarkConfig:
    """Options of the benchmark."""

    images: Annotated[Path, Option(help="Folder with pictures at any depth.")] = Path("data/elpv")
    weights: Annotated[str, Option(help="Weights, as for `python -m extract`.")] = "auto"
    pictures: Annotated[int, Option(min=10, help="Largest number of pictures to use.")] = 1000
    copied: Annotated[int, Option(min=1, help="Number of pictures that are copied in each way.")] = 100


def save_as_jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    """Return a function that saves a picture as JPEG and reads it again."""

    def change(picture: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return change


def crop(share: float, *, is_centred: bool) -> Callable[[Image.Image], Image.Image]:
    """Return a function that cuts off a share of width and height."""

    def change(picture: Image.Image) -> Image.Image:
        width, height = picture.size
        left, top = (width * share / 2, height * share / 2) if is_centred else (0, 0)
        return picture.crop(
            (round(left), round(top), round(left + width * (1 - share)), round(top + height * (1 - share)))
        )

    return change


def shrink(factor: int) -> Callable[[Image.Image], Image.Image]:
    """Return a function that makes a thumbnail and enlarges it again."""

    def change(picture: Image.Image) -> Image.Image:
        small = (max(1, picture.width // factor), max(1, picture.height // factor))
        return picture.resize(small, Image.Resampling.LANCZOS).resize(picture.size, Image.Resampling.BICUBIC)

    return change


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG quality 90": save_as_jpeg(90),
    "JPEG quality 50": save_as_jpeg(50),
    "JPEG quality 20": save_as_jpeg(20),
    "cropped 5%": crop(0.05, is_centred=True),
    "cropped 10%": crop(0.1, is_centred=True),
    "cropped 10% at a corner": crop(0.1, is_centred=False),
    "30% brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.3),
    "30% darker": lambda picture: ImageEnhance.Brightness(picture).enhance(0.7),
    "half size": shrink(2),
    "quarter size": shrink(4),
    "mirrored": ImageOps.mirror,
    "gray": lambda picture: picture.convert("L").convert("RGB"),
}


def measure_duplicates(config: DuplicatesBenchmarkConfig, console: Console) -> Mapping[str, Any]:
    """Measure the error rates of near-duplicates on a folder of pictures and on copies of them."""
    from extract.run import extract_features

    with tempfile.TemporaryDirectory() as scratch:
        pictures, store = Path(scratch, "pictures"), Path(scratch, "store")
        num_pictures = write_pictures(config, pictures)
        extract_features(ExtractConfig(pictures, store, weights=config.weights, pool=Pool.AVG), console)
        features = read_features(FeatureStore(store))
    originals = features.pop(ORIGINALS)
    alone = find_neighbours(originals)
    num_reported = int((group_sizes(group_rows(alone)) > 1).sum())
    missed = {name: measure_missed(originals, [copies]) for name, copies in features.items()}
    num_copied = min(len(copies) for copies in features.values())
    versions = measure_missed(originals[:num_copied], [copies[:num_copied] for copies in features.values()])
    rows = [(name, f"{share:.0%}") for name, share in missed.items()]
    rows.append((f"all changes to {num_copied} pictures, without others", f"{versions:.0%}"))
    console.show_table(f"missed copies of {num_copied} among {num_pictures:,} pictures", rows)
    typical = measure_typical_similarity(alone)
    found = [
        ("pictures reported", f"{num_reported} ({num_reported / num_pictures:.1%})"),
        ("largest group", str(group_sizes(group_rows(alone)).max())),
        ("typical similarity", f"{typical:.2f}, limit {NEAR}"),
    ]
    console.show_table("without copies", found)
    return {
        "num_pictures": num_pictures,
        "num_reported": num_reported,
        "typical_similarity": typical,
        "missed": missed,
        "missed_of_many": versions,
    }


def write_pictures(config: DuplicatesBenchmarkConfig, folder: Path) -> int:
    """Write the originals and their copies into a class folder for each change; return the number of originals.

    The originals are chosen by the digests of their files, without files that are there twice.
    """
    extensions = list_extensions()
    paths = [path for path in sorted(config.images.rglob("*")) if path.suffix.lower() in extensions]
    path_of = {hashlib.sha256(path.read_bytes()).digest(): path for path in paths if path.is_file()}
    for name in (ORIGINALS, *CHANGES):
        (folder / name).mkdir(parents=True)
    count = 0
    for _, path in sorted(path_of.items()):
        if count == config.pictures:
            break
        try:
            with Image.open(path) as file:
                picture = ImageOps.exif_transpose(file).convert("RGB")
        except OSError:
            continue
        name = f"{count:06}.png"
        picture.save(folder / ORIGINALS / name, compress_level=1)
        if count < config.copied:
            for change, apply in CHANGES.items():
                apply(picture).save(folder / change / name, compress_level=1)
        count += 1
    return count


def read_features(store: FeatureStore) -> dict[str, Array]:
    """Read the features of each class in the order of the file names."""
    found = {}
    for label in (ORIGINALS, *CHANGES):
        examples = sorted((e for e in store.examples if e.label == label), key=lambda example: example.path)
        found[label] = store.read(examples).astype(np.float32)
    return found


def measure_missed(originals: Array, copies: list[Array]) -> float:
    """Return the share of copies that are not in the group of their original."""
    groups = group_rows(find_neighbours(np.concatenate([originals, *copies])))
    start, num_missed = len(originals), 0
    for part in copies:
        num_missed += int((groups[start : start + len(part)] != groups[: len(part)]).sum())
        start += len(part)
    return num_missed / sum(map(len, copies))


def group_sizes(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the size of each row's group."""
    return np.bincount(groups, minlength=len(groups))[groups]


if __name__ == "__main__":
    run_app(measure_duplicates, DuplicatesBenchmarkConfig, "python -m benchmarks.duplicates")
