"""A seeded sample of a folder's training pictures, and its features at two picture sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from base.errors import HeadstartError
from base.options import make_options
from base.places.open import hash_location, open_pictures
from base.progress import ProgressBar
from base.terminal import Console, Unit, format_count, format_seconds
from base.urls import Location
from extract.config import ExtractConfig
from extract.images.scan import Scan
from extract.prepare import scan_pictures
from extract.run import extract_features
from extract.stores import read_store
from features.catalog.tables import ImageRow
from features.labels import require_single_labels
from features.presets import PRESETS, PresetName
from features.validation_split import is_held_out
from train_head.advise.config import AdviseConfig
from train_head.advise.settings import Setting, open_settings

MAX_PER_CLASS = 200
"""Largest number of pictures of a class in the sample."""
MIN_PER_CLASS = 10
"""Number of pictures of a class that a sample of many classes has; some classes are then left out."""
PRESETS_COMPARED = (PresetName.COURSE, PresetName.ACCURATE)


@dataclass(frozen=True)
class Sample:
    """Settings whose features were extracted for a sample of a folder."""

    settings: list[Setting]
    num_pictures: int
    """Number of pictures in the folder."""


class _SampleConsole(Console):
    """Console of the extractions of a sample: progress, and each warning once."""

    def __init__(self, console: Console) -> None:
        super().__init__(replace(console.options, quiet=True))
        self._console, self._warned = console, set[str]()

    def warning(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self._console.warning(message)

    @contextmanager
    def progress(self, description: str, total: int, unit: str | Unit) -> Iterator[ProgressBar]:
        with self._console.progress(description, total, unit) as bar:
            yield bar


def extract_sample(config: AdviseConfig, images: Location, folder: Path, console: Console) -> Sample:
    """Extract a sample of a folder's training pictures with the features of the presets course and accurate.

    Args:
        config: options of the advice.
        images: folder of the pictures.
        folder: folder for the stores; features in it are reused.
        console: prints messages and progress.

    Raises:
        FeatureStoreError: pictures have several labels.
        HeadstartError: the folder cannot be extracted, or has fewer than two classes to train on.
    """
    images = open_pictures(images)
    names = ("labels", "columns", "classes", "min_pictures", "weights", "threads")
    given: dict[str, Any] = {name: getattr(config, name) for name in names} | {"images": images, "max_bad": 1.0}
    configs = {
        preset: make_options(ExtractConfig, {"preset": preset, "store": folder / preset, **given}, "advise")
        for preset in PRESETS_COMPARED
    }
    scan = scan_pictures(configs[PresetName.COURSE], [folder / preset for preset in configs])
    require_single_labels(images, scan.label_source)
    chosen = {image.path for image in choose_sample(scan.images, images, config.pictures, config.seed)}
    labels = {image.label for image in scan.images if image.path in chosen}
    if len(labels) < 2:
        advice = "Add pictures of another class"
        raise HeadstartError(images, "training pictures of two classes", format_count(len(labels), "class"), advice)
    num_classes = len({image.label for image in scan.images})
    part = f" of {num_classes:,}" if len(labels) < num_classes else ""
    console.info(
        f"{images}: a sample of {format_count(len(chosen), 'training picture')} of {len(labels):,}{part} classes; "
        f"seed {config.seed}"
    )

    def select(found: Scan) -> Scan:
        return replace(found, images=[image for image in found.images if image.path in chosen])

    settings, sample_console = [], _SampleConsole(console)
    for preset, extraction in configs.items():
        result = extract_features(extraction, sample_console, select)
        if result.stopped:
            raise result.stopped
        place = folder / preset if len(extraction.cuts) == 1 else folder / preset / extraction.cuts[0]
        state = read_store(place)
        rate = float(state.meta.get("images_per_second", 0)) if state else 0.0
        console.debug(f"{preset}: sample extracted in {format_seconds(result.seconds)}")
        found = open_settings(folder / preset, extraction.image_size)
        # Of single layers, the last two: earlier ones are rarely better, and each comparison widens all intervals.
        found = found if len(extraction.cuts) == 1 else [found[0], *found[-2:]]
        settings += [replace(_name_options(setting, preset), rate=rate) for setting in found]
    return Sample(settings, len(scan.images))


def _name_options(setting: Setting, preset: PresetName) -> Setting:
    """Return a setting with the options that compute and select its features; only the preset, if it selects them."""
    options, cut = PRESETS[preset], setting.train.get("cut", "")
    if not options.extract:
        return replace(setting, extract={})
    if cut == options.train.get("cut"):
        return replace(setting, extract={"preset": preset.value}, train={"preset": preset.value})
    return replace(setting, extract={"preset": preset.value, "cut": cut})


def choose_sample(images: Sequence[ImageRow], folder: Location, num_pictures: int, seed: int) -> list[ImageRow]:
    """Choose training pictures, the same number of each class as far as there are enough.

    Pictures that training would set aside for validation are left out, so that they do not influence a choice. Of
    several copies of a picture, one is chosen. The order of a class depends on the seed and on the sizes of the files,
    and on their paths only between files of the same size.

    Args:
        images: the pictures of the folder.
        folder: the folder, to read the content of pictures.
        num_pictures: largest number of pictures.
        seed: seed of the choice.
    """
    has_validation = any(image.split == "validation" for image in images)
    by_label: dict[str, list[ImageRow]] = {}
    for image in images:
        if image.split in ("train", ""):
            by_label.setdefault(image.label, []).append(image)
    per_class = min(MAX_PER_CLASS, max(MIN_PER_CLASS, num_pictures // max(1, len(by_label))))
    labels = sorted(by_label, key=lambda label: _draw(seed, label))[: max(2, num_pictures // per_class)]
    chosen, hashes = [], set[bytes]()
    for label in sorted(labels):
        num_chosen = 0
        for image in sorted(by_label[label], key=lambda image: (_draw(seed, image.num_bytes), _draw(seed, image.path))):
            try:
                content_hash = hash_location(folder / image.path)
            except OSError:
                continue
            if content_hash in hashes or (not has_validation and is_held_out(content_hash)):
                continue
            hashes.add(content_hash)
            chosen.append(image)
            num_chosen += 1
            if num_chosen == per_class:
                break
    return chosen


def _draw(seed: int, value: object) -> bytes:
    return hashlib.sha256(f"{seed} {value}".encode("utf-8", "surrogateescape")).digest()
