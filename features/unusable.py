"""Images of the folder that have no feature to train on, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from features.catalog.tables import ImageRow, Location
from features.schema import FeatureKey, FeatureStatus, ImageStatus


class UnusableReason(StrEnum):
    """Why an image has no usable feature."""

    PENDING = "pending"
    """Not extracted yet, or its shard is lost."""
    FAILED = "failed"
    """Its file could not be decoded."""
    UNSOUND = "unsound"
    """Its feature is NaN, infinite or beyond float16."""


class UnusableImage(NamedTuple):
    """An image without a usable feature."""

    image: ImageRow
    reason: UnusableReason
    detail: str
    """The decoder's message of FAILED, the feature's status of UNSOUND, else empty."""


def list_unusable(images: Iterable[ImageRow], locations: Mapping[FeatureKey, Location]) -> list[UnusableImage]:
    """Return every image that is no example, in the images' order."""
    found = []
    for image in images:
        place = locations.get(FeatureKey(image.content_hash or b"", 0))
        if image.status is ImageStatus.FAILED:
            found.append(UnusableImage(image, UnusableReason.FAILED, image.reason))
        elif image.status is ImageStatus.PENDING or place is None:
            found.append(UnusableImage(image, UnusableReason.PENDING, ""))
        elif place.status is not FeatureStatus.OK:
            found.append(UnusableImage(image, UnusableReason.UNSOUND, place.status.value))
    return found
