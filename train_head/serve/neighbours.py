"""Training pictures with the most similar features."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from base.errors import UsageError
from base.terminal import Console, format_count
from base.urls import Location, has_pictures, locate_pictures
from extract.decoding.decode import DEFAULT_POLICY
from extract.decoding.policy import DecodePolicy, find_policy
from features.schema import Features
from features.store import Example
from train_head.config import NO_FINE_TUNING
from train_head.data.batches import Array
from train_head.evaluation.mahalanobis import scale_to_unit
from train_head.evaluation.outliers import choose_training_pictures, read_pooled
from train_head.export.config import Format
from train_head.export.open import ExportedModel
from train_head.report.gallery import encode_thumbnail
from train_head.runs.read import Run
from train_head.runs.record import recover_run
from train_head.serve.config import ServeConfig

NUM_NEAREST = 6
_NUM_CACHED = 256
"""Number of thumbnails that are kept; one has about 10 kB."""


class Neighbour(NamedTuple):
    """Training picture that is similar to an uploaded one."""

    number: int
    """Number of the picture in `TrainingPictures`."""
    path: str
    """Path in the folder of pictures."""
    label: str
    similarity: float
    """Cosine of the two features, centred at the mean of the training pictures; from -1 to 1."""


class TrainingPictures:
    """Features of training pictures, and their files."""

    def __init__(
        self, features: Array | Features, examples: Sequence[Example], images: Location | None, policy: DecodePolicy
    ) -> None:
        """Prepare the comparison.

        Args:
            features: (n, channels) features, averaged over height and width.
            examples: the n pictures.
            images: folder of the pictures; None if it is unknown.
            policy: rules by which they were decoded.
        """
        units = scale_to_unit(features.astype(np.float32))
        self._center = units.mean(axis=0)
        self._units = scale_to_unit(units - self._center)
        self._examples, self._images, self._policy = examples, images, policy
        self.render_thumbnail = lru_cache(_NUM_CACHED)(self._render_thumbnail)

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._examples)

    def find_nearest(self, feature: Array) -> list[Neighbour]:
        """Find the `NUM_NEAREST` pictures with the most similar features, the most similar first.

        Args:
            feature: (channels,) feature; of several cut layers joined, the last channels are those of the last one.
        """
        channels = feature[None, -len(self._center) :].astype(np.float32)
        cosines = self._units @ scale_to_unit(scale_to_unit(channels) - self._center)[0]
        numbers = np.argsort(-cosines, kind="stable")[:NUM_NEAREST].tolist()
        found = ((number, self._examples[number]) for number in numbers)
        return [Neighbour(number, e.path, e.label, float(cosines[number])) for number, e in found]

    def _render_thumbnail(self, number: int) -> bytes:
        """Return the thumbnail of a picture as a JPEG file; the method `render_thumbnail` keeps the last ones.

        Raises:
            UndecodableImageError: the file is missing, or has changed since extraction.
        """
        example = self._examples[number]
        return encode_thumbnail((self._images or Path()) / example.path, example.content_hash, self._policy)

    @property
    def has_files(self) -> bool:
        """Whether the folder of the pictures exists."""
        return self._images is not None and has_pictures(self._images)


def load_training_pictures(config: ServeConfig, model: ExportedModel, console: Console) -> TrainingPictures | None:
    """Load the features of the training pictures of a run, at most those that fit the detector of outliers.

    Returns:
        None without a run; and None, after a warning, if the model does not compute the features of the run's store.

    Raises:
        UsageError: the run is not that of the model.
        HeadstartError: the run or its store cannot be read.
    """
    if config.run is None:
        return None
    recover_run(config.run)
    run, card = Run(config.run), model.card
    if card.run and run.record.head != card.run or run.record.fingerprint != card.fingerprint:
        expected, got = f"the run that {config.model} was exported from", "another run"
        raise UsageError("--run", expected, got, "Export the run again, or leave the option out")
    if model.format is not Format.KERAS or run.unfreeze_from != NO_FINE_TUNING:
        reason = "only model.keras returns features"
        if model.format is Format.KERAS:
            reason = "the stored features of a fine-tuned run are not those of the model"
        console.warning(f"The page does not show the nearest training pictures: {reason}")
        return None
    store = run.open_store(config.store)
    split = run.find_split(store)
    images, chosen = run.find_images(store, config.images), choose_training_pictures(split)
    policy = find_policy(store.fingerprint.decode_policy) or DEFAULT_POLICY
    folder = locate_pictures(images) if images else None
    found = TrainingPictures(read_pooled(store, chosen, console), chosen, folder, policy)
    if len(found) < len(split.train):
        console.info(f"nearest training pictures: among {format_count(len(found), 'picture')} with different contents")
    if not found.has_files:
        console.warning(f"The folder of the training pictures is missing: {images or 'unknown'}. Give `--images`")
    return found
