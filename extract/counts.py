"""Count the pictures of an extraction by their outcome, and stop it if too many are unusable."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from base.errors import HeadstartError
from base.terminal import format_count
from extract.config import ExtractConfig
from extract.load import LoadedImage
from extract.views import list_views
from features.catalog.tables import ImageRow
from features.schema import FeatureKey, FeatureStatus, ImageStatus
from features.store_writer import FeatureWriter


class BadPicturesError(HeadstartError):
    """Too many pictures are unusable, or have NaN, infinity or overflow in a feature."""


class PictureCounts:
    """Numbers and lists of the pictures that an extraction has processed."""

    def __init__(self, config: ExtractConfig, writers: Sequence[FeatureWriter]) -> None:
        """Start at zero."""
        self._config, self._writers = config, writers
        self._contents: set[bytes] = set()
        self.max_bad = 0
        """Largest accepted number of unusable pictures, and of pictures with NaN, infinity or overflow."""
        self.num_done = self.num_computed = self.num_duplicates = self.num_rows = 0
        """Numbers of pictures: processed, newly computed, copies of computed ones; and of features, in all stores."""
        self.failed: list[dict[str, str]] = []
        self.unsound: list[str] = []
        """Paths of pictures with NaN, infinity or float16 overflow in a feature; excluded from training."""
        self.one_colour: list[str] = []
        self.low_contrast: list[str] = []
        """Paths of new pictures whose samples use less than a quarter of their range; not those of one colour."""

    def record(self, loaded: LoadedImage, computed: Collection[bytes]) -> None:
        """Count a processed picture whose features are in the stores; `computed` has new contents, its own if new."""
        self.num_done += 1
        if loaded.failure:
            self.failed.append({"image": loaded.image.path, "reason": loaded.failure})
            return
        if loaded.content_hash in self._contents:
            self.num_duplicates += 1
        elif loaded.content_hash in computed:
            self._contents.add(loaded.content_hash)
            self.num_computed += 1
        self.note_unsound(loaded.image, loaded.content_hash)
        self.one_colour += [loaded.image.path] if loaded.is_one_colour else []
        self.low_contrast += [loaded.image.path] if loaded.has_low_contrast else []

    def note_unsound(self, image: ImageRow, content_hash: bytes) -> None:
        """Add a picture to `unsound` if one of its stored features has NaN, infinity or overflow."""
        keys = [FeatureKey(content_hash, view) for view in list_views(image.split, self._config.views)]
        statuses = {writer.read_status(key) for writer in self._writers for key in keys}
        if statuses - {FeatureStatus.OK, None}:
            self.unsound.append(image.path)

    def check(self) -> None:
        """Raise BadPicturesError if more pictures than `max_bad` are unusable, or have NaN, infinity or overflow."""
        if len(self.failed) > self.max_bad:
            last = self.failed[-1]
            raise BadPicturesError(
                self._config.images,
                f"at most {format_count(self.max_bad, 'unusable picture')}",
                f"{len(self.failed):,}, the last {last['image']} ({last['reason']})",
                "Repair or move them, or raise --max-bad, and run again; the features extracted so far are kept",
            )
        if len(self.unsound) > self.max_bad:
            raise BadPicturesError(
                self._config.store,
                f"at most {format_count(self.max_bad, 'picture')} with NaN, infinity or float16 overflow in a feature",
                f"{len(self.unsound):,}, the last {self.unsound[-1]}",
                "Check the weights, or raise --max-bad; the other features are kept",
            )


def describe_image(loaded: LoadedImage) -> ImageRow:
    """Return the catalog row of a picture that was read."""
    if loaded.failure:
        return loaded.image._replace(content_hash=None, status=ImageStatus.FAILED, reason=loaded.failure)
    return loaded.image._replace(content_hash=loaded.content_hash, status=ImageStatus.DONE)
