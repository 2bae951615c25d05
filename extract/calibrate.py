"""Quantise the backbone for int8, calibrated on pictures that are chosen by their content."""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from base.errors import HeadstartError
from base.places.open import count_readers, hash_location
from base.terminal import Console, format_count
from extract.backbone import join_cuts
from extract.config import ExtractConfig, Precision
from extract.cut_backbone import CutBackbone
from extract.decoding.policy import DecodePolicy
from extract.engines import count_cores
from extract.load import LoadedImage, load_view, map_ahead, start_threads
from extract.stores import NEW_STORE_ADVICE, StoredState, build_feature_spec
from features.catalog.catalog import CATALOG_NAME, Catalog, load_fingerprint
from features.catalog.tables import ImageRow
from features.cuts import resolve_cut
from features.folder import check_fingerprint
from features.quantized import ModelDamagedError, QuantizedModel, read_model
from features.schema import is_training

NUM_PICTURES = 300
"""Number of pictures to calibrate on."""
_QUIET_FILES = 1_000
"""Number of files that are hashed without a progress line."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Calibrator:
    """Pictures of a run, on which the backbone is calibrated, and functions that quantise it."""

    config: ExtractConfig
    console: Console
    images: Sequence[ImageRow]
    """Pictures of the folder."""
    stored: Mapping[str, StoredState]
    """Stores with features, by cut."""
    policy: DecodePolicy
    backbone: CutBackbone
    """Backbone to quantise; it also prepares the pictures."""

    def quantize_new(self) -> None:
        """Quantise the backbone for the cuts whose stores have no features yet, as one model; only for int8.

        With `--calibration`, the backbone of the given store is used instead.

        Raises:
            FingerprintMismatchError: a backbone was quantised with other settings, or in another way than the stored
                features.
        """
        new = [cut for cut in self.config.cuts if cut not in self.stored]
        if self.config.calibration:
            given = {cut: self._read_given(cut, self.config.calibration) for cut in self.config.cuts}
            self.backbone.quantized |= {cut: given[cut] for cut in new}
        elif new and self.config.precision is Precision.INT8:
            pictures = self._choose_pictures()
            if not pictures:
                expected, got = "a usable training picture, to calibrate int8 on", "none"
                advice = "Repair the pictures, or give --precision float32"
                raise HeadstartError(self.config.images, expected, got, advice)
            self.backbone.quantized |= dict.fromkeys(new, self._quantize(new, pictures))

    def load_stored(self) -> None:
        """Load the quantised backbone of each store with features, once; make it again if no store has it intact.

        Raises:
            ModelDamagedError: a quantised backbone is missing or damaged, and the pictures now give another one.
        """
        if self.config.precision is not Precision.INT8:
            return
        wanted = {cut: state for cut, state in self.stored.items() if cut not in self.backbone.quantized}
        for digest in dict.fromkeys(state.fingerprint.calibration for state in wanted.values()):
            states = {cut: state for cut, state in wanted.items() if state.fingerprint.calibration == digest}
            try:
                model = _read_intact(digest, states.values())
            except ModelDamagedError as error:
                model = self._replace(digest, list(states), error)
            self.backbone.quantized |= dict.fromkeys(states, model)

    def _read_given(self, cut: str, calibration: Path) -> QuantizedModel:
        """Read the quantised backbone of a cut from the store in `--calibration`."""
        store = resolve_cut(calibration, cut)
        with closing(Catalog(store / CATALOG_NAME, writable=False)) as catalog:
            found = load_fingerprint(catalog)
        if cut in self.stored:
            stored = self.stored[cut]
            check_fingerprint(
                stored.path, stored.fingerprint, replace(stored.fingerprint, calibration=found.calibration)
            )
        else:
            spec = build_feature_spec(self.config, cut, self.backbone, self.policy, found.calibration)
            check_fingerprint(store, found, spec.fingerprint)
        return read_model(store, found.calibration)

    def _replace(self, digest: str, cuts: Sequence[str], error: ModelDamagedError) -> QuantizedModel:
        """Make a damaged quantised backbone again; raise ModelDamagedError if the result is another one."""
        self.console.warning(f"{error.where}: {error.got} instead of {error.expected}. It will be made again")
        # New pictures would change the choice. The stored ones may have been copied or renamed since.
        pictures = self._choose_pictures(frozenset(self._known.values()))
        model = self._quantize(cuts, pictures) if pictures else None
        if model is None or model.digest != digest:
            found = f"pictures or libraries that give {model.digest[:12]}…" if model else "none of these pictures"
            raise ModelDamagedError(
                error.where,
                f"{error.expected}, or the pictures that it was calibrated on",
                f"{error.got}, and {found}",
                f"Restore the folder from a copy of the store. {NEW_STORE_ADVICE}",
            ) from error
        return model

    @cached_property
    def _known(self) -> dict[tuple[str, int, int], bytes]:
        """Content hashes of the pictures of the stores, by path, size and modification time."""
        rows = (row for state in self.stored.values() for row in state.known.images)
        return {_identify(row): row.content_hash for row in rows if row.content_hash}

    def _quantize(self, cuts: Sequence[str], pictures: Sequence[ImageRow]) -> QuantizedModel:
        # In alphabetical order, so that the order of the option does not matter.
        ordered = sorted(cuts)
        model = join_cuts([self.backbone.models[cut] for cut in ordered])
        count = format_count(len(pictures), "picture")
        self.console.info(f"int8: quantising the backbone, calibrated on {count}")
        from extract.engines.quantize import quantize_backbone

        views = _Views(lambda: self._load(pictures))
        return quantize_backbone(model, ordered, views, len(pictures))

    def _choose_pictures(self, contents: Container[bytes | None] | None = None) -> list[ImageRow]:
        """Choose the usable training pictures with the smallest content hashes, each content once.

        Args:
            contents: content hashes of the pictures to choose from; None for those of the folder.
        """
        candidates = self._hash_pictures([row for row in self.images if is_training(row.split)])
        if contents is not None:
            candidates = [row for row in candidates if row.content_hash in contents]
        chosen: list[ImageRow] = []
        with closing(self._load_all(candidates)) as loaded:
            for found in loaded:
                chosen += [found.image] if found.views else []
                if len(chosen) == NUM_PICTURES:
                    break
        return chosen

    def _hash_pictures(self, rows: Sequence[ImageRow]) -> list[ImageRow]:
        """Return one row for each distinct content of the readable pictures, in the order of the content hashes."""
        known = {} if self.config.rehash else self._known

        def hash_picture(row: ImageRow) -> ImageRow:
            content_hash = known.get(_identify(row))
            if content_hash is None:
                # Extraction reports unreadable pictures.
                with suppress(OSError):
                    content_hash = hash_location(self.config.images / row.path)
            return row._replace(content_hash=content_hash)

        num_shown = len(rows) if len(rows) > _QUIET_FILES else 0
        by_content: dict[bytes, ImageRow] = {}
        with (
            self.console.progress("hash", num_shown, "pictures") as progress,
            closing(self._map(hash_picture, rows)) as hashed,
        ):
            for row in hashed:
                progress.advance(1)
                if row.content_hash:
                    by_content.setdefault(row.content_hash, row)
        return [by_content[content_hash] for content_hash in sorted(by_content)]

    def _load_all(self, rows: Iterable[ImageRow]) -> Generator[LoadedImage, None, None]:
        def load(row: ImageRow) -> LoadedImage:
            return load_view(row, 0, self.config, self.backbone.prepare, self.policy)

        return self._map(load, rows)

    def _load(self, rows: Iterable[ImageRow]) -> Iterator[NDArray[np.float32]]:
        """Yield view 0 of the chosen pictures, with the same pixels as in extraction."""
        with closing(self._load_all(rows)) as loaded:
            for found in loaded:
                if not found.views:
                    expected, got = "an unchanged picture", found.failure or "other content"
                    raise HeadstartError(self.config.images / found.image.path, expected, got, "Run again")
                yield found.views[0]

    def _map(self, function: Callable[[ImageRow], Result], rows: Iterable[ImageRow]) -> Generator[Result, None, None]:
        num_readers = count_readers(self.config.images, count_cores(self.config.threads))
        with start_threads(num_readers, "read") as pool:
            yield from map_ahead(pool, function, rows, 4 * num_readers)


def _read_intact(digest: str, states: Iterable[StoredState]) -> QuantizedModel:
    """Read a quantised backbone from the first store that has it intact; otherwise raise the first error."""
    errors = []
    for state in states:
        try:
            return read_model(state.path, digest)
        except ModelDamagedError as error:
            errors.append(error)
    raise errors[0]


def _identify(row: ImageRow) -> tuple[str, int, int]:
    return row.path, row.num_bytes, row.modified_ns


class _Views:
    """Views that are loaded again in each iteration, so that only a few are in memory."""

    def __init__(self, load: Callable[[], Iterator[NDArray[np.float32]]]) -> None:
        self._load = load

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return self._load()
