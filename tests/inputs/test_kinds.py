"""Every kind of picture file is decoded, or refused with its reason."""

from __future__ import annotations

import numpy as np
import pytest

from extract.config import MAX_PIXELS
from extract.decoding.decode import decode_image
from extract.decoding.read import UndecodableImageError
from tests.inputs.kinds import ACCEPTED, KINDS, REFUSED, Kind
from tests.inputs.makers import SIZE, save
from train_head.config import MAX_PIXELS as MAX_PIXELS_OF_STAGE_TWO

pytestmark = pytest.mark.unit


def test_kinds_have_different_names_files_and_bytes() -> None:
    assert len({kind.name for kind in KINDS}) == len({kind.file_name for kind in KINDS}) == len(KINDS)
    kinds = [kind for kind in KINDS if not kind.name.startswith("empty")]
    contents = [kind.make() for kind in kinds]
    assert len(set(contents)) == len(contents)
    assert [kind.make() for kind in kinds] == contents


@pytest.mark.parametrize("kind", ACCEPTED, ids=lambda kind: kind.name)
def test_decode_in_strips_equals_decoding_as_a_whole(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    data = kind.make()
    whole = decode_image(data)
    monkeypatch.setattr("extract.decoding.convert._STRIP_PIXELS", 7 * whole.shape[1])
    np.testing.assert_array_equal(decode_image(data), whole)


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.name)
def test_decode_refused_kind_gives_the_reason(kind: Kind) -> None:
    with pytest.raises(UndecodableImageError) as caught:
        decode_image(kind.make())
    assert kind.reason is not None
    assert kind.reason in str(caught.value)


def test_decode_picture_of_max_pixels_is_accepted_and_one_more_refused() -> None:
    num_pixels = SIZE[0] * SIZE[1]
    assert decode_image(save("PNG"), num_pixels).shape == (SIZE[1], SIZE[0], 3)
    with pytest.raises(UndecodableImageError) as caught:
        decode_image(save("PNG"), num_pixels - 1)
    assert f"{num_pixels - 1:,}" in str(caught.value)


def test_max_pixels_is_89_million_by_default_in_both_stages() -> None:
    assert MAX_PIXELS == MAX_PIXELS_OF_STAGE_TWO == 89_000_000
