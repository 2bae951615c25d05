"""Hide the decoders of AVIF, HEIC and JPEG XL, as in an installation without them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from extract.images.formats import PLUGIN_FORMATS


@contextmanager
def hide_decoders() -> Iterator[None]:
    """Make the modules impossible to find and to import within the block."""
    with pytest.MonkeyPatch.context() as patch:
        for each in PLUGIN_FORMATS:
            patch.setitem(sys.modules, each.module, None)
        yield
