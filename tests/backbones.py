"""Backbones, engines and augmentations that all extractions of a test process share."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from extract.backbone import build_backbone, cut_backbone, join_cuts
from extract.engines import build_engine
from extract.views import compile_views

if TYPE_CHECKING:
    import keras

build_backbone_once = functools.lru_cache(4)(build_backbone)
"""`build_backbone` with a cache of four models, which must not be changed."""


@contextmanager
def share_backbones() -> Iterator[None]:
    """Build and compile each backbone once for all calls of `extract_features`, instead of in each call (5 to 10 s).

    The engine is compared with plain Keras only in tests of this comparison, which takes half of a small extraction.
    """
    join_once = functools.lru_cache(16)(lambda models: join_cuts(models))

    def join(models: Sequence[keras.Model]) -> keras.Model:
        return join_once(tuple(models))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extract.backbone.build_backbone", build_backbone_once)
        patch.setattr("extract.backbone.cut_backbone", functools.lru_cache(16)(cut_backbone))
        patch.setattr("extract.backbone.join_cuts", join)
        patch.setattr("extract.backbone.build_engine", functools.lru_cache(16)(build_engine))
        patch.setattr("extract.backbone.compile_views", functools.lru_cache(16)(compile_views))
        patch.setattr("extract.run.compare_with_keras", lambda *_: 0)
        yield
