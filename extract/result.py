"""Result of an extraction, and the warnings about its unusable pictures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from base.terminal import Console, format_count
from extract.counts import BadPicturesError
from extract.images.recognize import describe_unsupported

MANY = 0.1
"""Share of new pictures with a low contrast above which they are reported."""


@dataclass(frozen=True)
class ExtractResult:
    """Result of an extraction, printed by `--json`."""

    store: Path
    """Folder of the store; with several cuts, the folder that has a store for each."""
    images: int
    """Number of pictures in the folder, or in the part of it."""
    computed: int
    """Number of pictures with newly computed features."""
    reused: int
    """Number of pictures with features stored by an earlier run."""
    duplicates: int
    """Number of byte-for-byte copies of computed pictures."""
    failed: list[dict[str, str]]
    """Unusable pictures that were read: `image` and `reason` of each."""
    unsound: int
    """Number of pictures with NaN, infinity or float16 overflow in a feature; stored, but excluded from training."""
    unsound_images: list[str]
    """Paths of the unsound pictures."""
    one_colour: int
    """Number of new pictures of one colour."""
    one_colour_images: list[str]
    low_contrast: int
    """Number of new pictures whose samples use less than a quarter of their range, but more than one colour."""
    low_contrast_images: list[str]
    skipped: list[dict[str, str]]
    """Files and folders that are not extracted: `path`, `reason` and `num_pictures` (in a folder) of each."""
    ignored: dict[str, int]
    """Number of files and folders of operating systems, network storage and editors for each name."""
    splits: dict[str, str]
    """`train`, `validation` or `test` for each folder that was read as a split, by its relative path."""
    removed: int
    """Number of pictures removed from the catalog because they are no longer in the folder."""
    seconds: float
    """Duration of the run, in seconds."""
    images_per_second: float
    """Number of pictures computed per second; 0 if none was computed."""
    fingerprint: str
    """Digest of the fingerprint; several cuts give several, separated by commas."""
    fingerprints: dict[str, str]
    """Digest of the fingerprint of each cut."""
    weights: str
    """Source, file and digest of the weights."""
    labels: dict[str, Any] | None
    """Columns of the table that were used, and the rows and pictures that do not fit; None for class folders."""
    relabeled: int
    """Number of pictures of the last run whose label or split changed."""
    sample_bits: int
    """Significant bits by which 16-bit samples are scaled; 16 without such pictures."""
    part: str
    """The part of the folder, such as `3/16`; empty for the whole folder."""
    stopped: BadPicturesError | None
    """Error that stopped the run early; None for a complete run."""

    @property
    def error(self) -> str:
        """Message of the error that stopped the run early; empty for a complete run."""
        return str(self.stopped or "")

    def to_json(self) -> dict[str, Any]:
        """Return the result as `--json` prints it."""
        values = asdict(self)
        del values["stopped"]
        return values | {"error": self.error}


def warn_about_unusable(result: ExtractResult, console: Console) -> None:
    """Warn about unusable pictures, pictures excluded from training, and pictures in unsupported formats."""
    if result.failed and not result.stopped:
        first, count = result.failed[0], format_count(len(result.failed), "unusable picture")
        console.warning(f"skipped {count}, first {first['image']} ({first['reason']}). The others are extracted")
    if result.unsound:
        console.warning(
            f"{format_count(result.unsound, 'picture')} excluded from training, because a feature has NaN or overflow, "
            f"first {result.unsound_images[0]}. Check the weights"
        )
    if result.one_colour:
        count = format_count(result.one_colour, "new picture")
        console.warning(f"{count} of one colour, first {result.one_colour_images[0]}. Check how they were written")
    num_new = result.computed + result.duplicates
    if result.low_contrast > MANY * num_new:
        console.warning(
            f"{result.low_contrast:,} of {format_count(num_new, 'new picture')} use less than a quarter of the range "
            f"from black to white, first {result.low_contrast_images[0]}. Check how they were written, and give "
            "--sample-bits if their 16-bit samples use fewer bits"
        )
    for warning in describe_unsupported((file["path"], file["reason"]) for file in result.skipped):
        console.warning(warning)
