"""Backbones, engines and augmentations that all extractions of a test process share."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pytest

from extract.backbone import build_backbone, cut_backbone, join_cuts
from extract.engines import build_engine
from extract.views import compile_views
from extract.weights.find import Weights

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
        patch.setattr("extract.cut_backbone.build_backbone", build_backbone_once)
        patch.setattr("extract.cut_backbone.cut_backbone", functools.lru_cache(16)(cut_backbone))
        patch.setattr("extract.cut_backbone.join_cuts", join)
        patch.setattr("extract.cut_backbone.build_engine", functools.lru_cache(16)(build_engine))
        patch.setattr("extract.cut_backbone.compile_views", functools.lru_cache(16)(compile_views))
        patch.setattr("extract.run.compare_with_keras", lambda *_: np.zeros((1, 0)))
        yield


def build_small_backbone(image_size: int, weights: Weights | None) -> keras.Model:
    """Build a backbone with five small blocks in place of InceptionV3, whose graph takes seconds to build and trace.

    The blocks `mixed4` to `mixed8` have two branches of a convolution, a normalisation and an activation.
    """
    import keras

    def add_branch(features: Any, strides: int) -> Any:
        features = keras.layers.Conv2D(4, 3, strides, padding="same", use_bias=False)(features)
        return keras.layers.Activation("relu")(keras.layers.BatchNormalization(scale=False)(features))

    def build(input_shape: tuple[int, int, int], **_: Any) -> keras.Model:
        outputs = inputs = keras.Input(input_shape)
        for number, strides in {4: 5, 5: 5, 6: 1, 7: 1, 8: 1}.items():
            branches = [add_branch(outputs, strides) for _ in range(2)]
            outputs = keras.layers.Concatenate(name=f"mixed{number}")(branches)
        return keras.Model(inputs, outputs)

    with mock.patch("keras.applications.InceptionV3", build):
        return build_backbone(image_size, weights)


@contextmanager
def use_small_backbone() -> Iterator[None]:
    """Let extraction, training and export in the block use `build_small_backbone`, built once for each size.

    Fine-tuning changes its backbone, which is therefore built each time.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in ("extract.cut_backbone", "train_head.export.load"):
            patch.setattr(f"{module}.build_backbone", functools.lru_cache(4)(build_small_backbone))
        patch.setattr("train_head.finetuning.backbone.build_backbone", build_small_backbone)
        yield
