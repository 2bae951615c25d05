"""Significant bits of a folder's 16-bit pictures, and the decode policy that follows from them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TypeVar

from base.errors import FingerprintMismatchError
from base.places.open import count_readers
from base.terminal import Console, format_count
from extract.config import ExtractConfig, SampleBits, parse_part
from extract.decoding.decode import find_sample_bits
from extract.decoding.policy import SAMPLE_BITS, DecodePolicy, find_policy
from extract.decoding.read import UndecodableImageError, read_picture, reserve_large_file
from extract.decoding.samples import has_sample_bits
from extract.engines import count_cores
from extract.images.formats import FORMAT_BY_EXTENSION
from extract.load import map_ahead, start_threads
from extract.plan import merge_images_to_read, plan_images
from extract.stores import BITS_KEY, NEW_STORE_ADVICE, StoredState
from features.catalog.tables import ImageRow
from features.schema import ImageStatus

_RANGED_EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".dib", ".webp", *FORMAT_BY_EXTENSION)
"""Extensions of formats with samples of 8 bits, or of the range in the header."""
_QUIET_FILES = 10_000
"""Number of headers that are read without a progress line, in a few seconds."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class SampleSurvey:
    """Significant bits of a set of pictures."""

    bits: int = 0
    """Largest number of significant bits; 0 without a 16-bit picture."""
    path: str = ""
    """First picture with so many."""
    num_pictures: int = 0
    """Number of 16-bit pictures."""


def choose_policy(config: ExtractConfig, stored: Iterable[StoredState]) -> DecodePolicy:
    """Choose the decode policy by the option and the records of the stores, without reading a picture."""
    requested = DecodePolicy() if config.sample_bits is SampleBits.AUTO else DecodePolicy(int(config.sample_bits))
    for state in stored:
        recorded = find_policy(state.fingerprint.decode_policy)
        if recorded and config.sample_bits in (SampleBits.AUTO, str(recorded.sample_bits)):
            return recorded
    return requested


def decide_policy(
    config: ExtractConfig,
    images: Sequence[ImageRow],
    stored: Collection[StoredState],
    num_stores: int,
    console: Console,
) -> tuple[DecodePolicy, bool]:
    """Decide the decode policy of a run. Without the option, new pictures with 16-bit samples are read.

    Returns:
        The policy, and whether significant bits were found or given.

    Raises:
        FingerprintMismatchError: the new pictures need another scale than that of a store.
    """
    policy, has_bits = choose_policy(config, stored), True
    if config.sample_bits is SampleBits.AUTO:
        survey = survey_samples(_list_new_images(images, stored, num_stores, config), config, console)
        policy, has_bits = settle_policy(policy, survey, stored), survey.bits > 0
    if has_bits:
        console.info(f"16-bit samples: {policy.sample_bits} significant bits")
    return policy, has_bits


def _list_new_images(
    images: Sequence[ImageRow], stored: Collection[StoredState], num_stores: int, config: ExtractConfig
) -> list[ImageRow]:
    """List the pictures whose content is new to one of the stores; for a new store, those of all parts."""
    if len(stored) < num_stores:
        return list(images)
    part = parse_part(config.part)
    own = [image for image in images if part is None or part.holds(image.path)]
    to_read = merge_images_to_read(plan_images(own, state.known, config.views) for state in stored)
    return [image for image in to_read if image.status is not ImageStatus.DONE]


def _drop_ranged(images: Iterable[ImageRow]) -> list[ImageRow]:
    return [image for image in images if not image.path.lower().endswith(_RANGED_EXTENSIONS)]


def survey_samples(images: Iterable[ImageRow], config: ExtractConfig, console: Console) -> SampleSurvey:
    """Find the significant bits of the 16-bit pictures among `images`; only these are decoded.

    Files whose extension excludes such samples are not opened. The survey ends at the first picture with 16 bits.
    """
    examined = _drop_ranged(images)
    num_readers, deep, bits, first = count_readers(config.images, count_cores(config.threads)), [], 0, ""
    num_shown = len(examined) if len(examined) > _QUIET_FILES else 0
    with start_threads(num_readers, "read") as pool:

        def read_all(
            function: Callable[[ImageRow], Result], images: list[ImageRow]
        ) -> Generator[tuple[ImageRow, Result]]:
            with closing(map_ahead(pool, function, images, 4 * num_readers)) as results:
                yield from zip(images, results, strict=True)

        with console.progress("read headers", num_shown, "pictures") as progress:
            for image, is_deep in read_all(lambda image: has_sample_bits(config.images / image.path), examined):
                progress.advance(1)
                deep += [image] if is_deep else []
        with (
            console.progress("find significant bits", len(deep), "16-bit pictures") as progress,
            closing(read_all(lambda image: _find_bits(image, config), deep)) as found,
        ):
            for image, num_bits in found:
                progress.advance(1)
                if num_bits > bits:
                    bits, first = num_bits, image.path
                if bits == SAMPLE_BITS[-1]:
                    break
    return SampleSurvey(bits, first, len(deep))


def settle_policy(policy: DecodePolicy, survey: SampleSurvey, stored: Collection[StoredState]) -> DecodePolicy:
    """Return the policy for the surveyed pictures: that of the stores, or one with the bits found.

    Raises:
        FingerprintMismatchError: the pictures need another scale than that of a store.
    """
    if not stored:
        return replace(policy, sample_bits=survey.bits or policy.sample_bits)
    for state in stored:
        if survey.bits > policy.sample_bits:
            expected = f"16-bit samples of at most {policy.sample_bits} bits, by which the store's are scaled"
            raise FingerprintMismatchError(state.path, expected, _describe(survey), NEW_STORE_ADVICE)
        # A store with 16 bits has no 16-bit picture yet, unless it recorded the bits of one.
        if survey.bits and policy.sample_bits == SAMPLE_BITS[-1] != survey.bits and BITS_KEY not in state.meta:
            expected = "16-bit samples that use all 16 bits, because the store has no 16-bit picture with fewer"
            advice = f"{NEW_STORE_ADVICE}, or --sample-bits 16, with which these pictures may be dark"
            raise FingerprintMismatchError(state.path, expected, _describe(survey), advice)
    return policy


def _find_bits(image: ImageRow, config: ExtractConfig) -> int:
    """Return the significant bits of a picture; 0 if it is unusable, which extraction reports later."""
    try:
        with reserve_large_file(image.num_bytes):
            return find_sample_bits(read_picture(config.images / image.path, config.max_pixels), config.max_pixels)
    except UndecodableImageError:
        return 0


def _describe(survey: SampleSurvey) -> str:
    return f"{format_count(survey.num_pictures, 'new 16-bit picture')} of {survey.bits} bits, as {survey.path}"
