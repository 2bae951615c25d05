"""The backbone's tail: where it begins, and which layers of it are trained again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from base.errors import UsageError
from extract.backbone import cut_backbone, name_layers
from train_head.finetuning.backbone import TOP, choose_stored_cut, cut_tail, find_boundary, list_trained

LAST_BLOCK = [f"conv2d_{number}" for number in range(60, 70)]
"""Those that make mixed7 of mixed6. Source: Szegedy et al. 2015 (arXiv:1512.00567), figure 6; Keras's numbers."""


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
def test_choose_stored_cut_takes_the_last_block_at_or_before(cuts: list[str], layer: str, expected: str) -> None:
    assert choose_stored_cut(cuts, layer) == expected


@pytest.mark.parametrize("boundary", ["mixed6", "mixed5"])
def test_cut_tail_goes_on_where_the_cut_backbone_ends_to_the_bit(backbone: Any, boundary: str) -> None:
    pixels = np.random.default_rng(0).uniform(-1, 1, (3, 75, 75, 3)).astype(np.float32)
    features = cut_backbone(backbone, boundary).predict_on_batch(pixels)
    whole = cut_backbone(backbone, TOP).predict_on_batch(pixels)
    np.testing.assert_allclose(cut_tail(backbone, boundary).predict_on_batch(features), whole, atol=1e-6)
    between = cut_tail(backbone, "mixed4", boundary)
    early = cut_backbone(backbone, "mixed4").predict_on_batch(pixels)
    np.testing.assert_allclose(between.predict_on_batch(early), features, atol=1e-6)


def test_list_trained_from_a_block_is_every_convolution_after_it(backbone: Any) -> None:
    assert sorted(list_trained(backbone, "mixed6")) == LAST_BLOCK
    before = {id(layer) for layer in cut_backbone(backbone, "mixed5").layers}
    after = [
        name
        for layer, name in name_layers(cut_backbone(backbone, TOP)).items()
        if type(layer).__name__ == "Conv2D" and id(layer) not in before
    ]
    assert sorted(list_trained(backbone, "mixed5")) == sorted(after)
    assert len(after) == 20


def test_list_trained_from_inside_a_block_is_the_layer_and_what_it_leads_to(backbone: Any) -> None:
    # One of the branches of the last block: 1 x 1, 1 x 7, 7 x 1.
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
def test_find_boundary_is_the_last_block_that_stays(backbone: Any, cut: str, layer: str, boundary: str) -> None:
    assert find_boundary(backbone, cut, layer) == boundary


@pytest.mark.parametrize(
    ("cut", "layer"), [("mixed6", "mixed5"), ("mixed5", "mixed7"), ("mixed5", "mixed8"), ("mixed7", "mixed6")]
)
def test_find_boundary_of_a_layer_outside_of_the_tail_names_what_there_is(backbone: Any, cut: str, layer: str) -> None:
    with pytest.raises(UsageError) as raised:
        find_boundary(backbone, cut, layer)
    assert str(raised.value) == (
        f"--unfreeze-from: expected a layer from {cut}, whose features are stored, to before mixed7, got {layer}. "
        "`python -m extract summary` lists them; an earlier one needs features of an earlier cut."
    )
    assert raised.value.exit_status == 2


def test_find_boundary_of_no_layer_at_all_names_the_nearest(backbone: Any) -> None:
    with pytest.raises(UsageError, match=r"^--unfreeze-from: .* got 'mixd6'\. Did you mean mixed6"):
        find_boundary(backbone, "mixed5", "mixd6")
