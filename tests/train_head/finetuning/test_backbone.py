"""Backbone of a store: cuts, tails, boundaries and fine-tuned layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from base.errors import UsageError
from extract.backbone import cut_backbone, name_layers
from extract.weights.find import Weights, WeightsName
from tests.backbones import build_backbone_once
from tests.errors import raises
from tests.train_head.finetuning.layers import LAST_BLOCK
from train_head.finetuning.backbone import TOP, choose_stored_cut, cut_tail, find_boundary, list_trained


@pytest.fixture(scope="module")
def backbone() -> Any:
    """InceptionV3 at 75 px with random weights; not to be changed."""
    return build_backbone_once(75, Weights(WeightsName.RANDOM))


@pytest.mark.parametrize(
    ("cuts", "layer", "expected"),
    [
        (["mixed5", "mixed6", "mixed7"], "mixed6", "mixed6"),
        (["mixed5", "mixed7"], "mixed6", "mixed5"),
        (["mixed10", "mixed2"], "mixed6", "mixed2"),
        (["mixed7"], "mixed6", ""),
        (["activation_3", "mixed5"], "mixed5", "mixed5"),
        (["mixed5"], "conv2d_63", ""),
    ],
)
@pytest.mark.unit
def test_choose_stored_cut_returns_last_block_at_or_before_layer(cuts: list[str], layer: str, expected: str) -> None:
    assert choose_stored_cut(cuts, layer) == expected


def test_cut_tail_continues_the_cut_backbone(backbone: Any) -> None:
    boundary = "mixed6"
    pixels = np.random.default_rng(0).uniform(-1, 1, (3, 75, 75, 3)).astype(np.float32)
    features = cut_backbone(backbone, boundary).predict_on_batch(pixels)
    whole = cut_backbone(backbone, TOP).predict_on_batch(pixels)
    np.testing.assert_allclose(cut_tail(backbone, boundary).predict_on_batch(features), whole, atol=1e-6)
    between = cut_tail(backbone, "mixed4", boundary)
    early = cut_backbone(backbone, "mixed4").predict_on_batch(pixels)
    np.testing.assert_allclose(between.predict_on_batch(early), features, atol=1e-6)


def test_list_trained_from_block_lists_all_later_convolutions(backbone: Any) -> None:
    assert sorted(list_trained(backbone, "mixed6")) == sorted(LAST_BLOCK)
    before = {id(layer) for layer in cut_backbone(backbone, "mixed5").layers}
    after = [
        name
        for layer, name in name_layers(cut_backbone(backbone, TOP)).items()
        if type(layer).__name__ == "Conv2D" and id(layer) not in before
    ]
    assert sorted(list_trained(backbone, "mixed5")) == sorted(after)
    assert len(after) == 20


def test_list_trained_inside_block_lists_layer_and_its_successors(backbone: Any) -> None:
    # A branch of the last block: 1 x 1, 1 x 7, 7 x 1.
    assert list_trained(backbone, "conv2d_61") == ["conv2d_61", "conv2d_62", "conv2d_63"]
    assert list_trained(backbone, "conv2d_60") == ["conv2d_60"]


@pytest.mark.parametrize(
    ("cut", "layer", "boundary"),
    [
        ("mixed6", "mixed6", "mixed6"),
        ("mixed5", "mixed6", "mixed6"),
        ("mixed2", "conv2d_61", "mixed6"),
        ("mixed5", "conv2d_55", "mixed5"),
    ],
)
def test_find_boundary_returns_last_frozen_block(backbone: Any, cut: str, layer: str, boundary: str) -> None:
    assert find_boundary(backbone, cut, layer) == boundary


@pytest.mark.parametrize(
    ("cut", "layer"), [("mixed6", "mixed5"), ("mixed5", "mixed7"), ("mixed5", "mixed8"), ("mixed7", "mixed6")]
)
def test_find_boundary_of_layer_outside_of_tail_fails(backbone: Any, cut: str, layer: str) -> None:
    with raises(UsageError, where="--unfreeze-from", got=layer) as caught:
        find_boundary(backbone, cut, layer)
    assert cut in caught.value.expected
    assert "mixed7" in caught.value.expected


def test_find_boundary_of_unknown_layer_suggests_nearest(backbone: Any) -> None:
    with raises(UsageError, where="--unfreeze-from", got="'mixd6'") as caught:
        find_boundary(backbone, "mixed5", "mixd6")
    assert "mixed6" in caught.value.advice
