"""Replace InceptionV3 with a backbone of one layer, so that an export takes a second.

`python -m tests.torture.small_backbone MODULE ARGUMENT...` runs a command with this backbone.
"""

from __future__ import annotations

import runpy
import sys
from typing import Any

from extract import backbone

SIZE, CUT = 75, "mixed7"


def replace_backbone() -> None:
    """Replace the backbone that Keras builds."""
    import keras

    keras.applications.InceptionV3 = _build_small


def _replace_when_built() -> None:
    """Replace the backbone when it is built, so that TensorFlow is not imported earlier than usual."""
    real = backbone.build_backbone

    def build(*arguments: Any, **options: Any) -> Any:
        replace_backbone()
        return real(*arguments, **options)

    backbone.build_backbone = build


def _build_small(input_shape: tuple[int, int, int], **_: object) -> Any:
    import keras

    pixels = keras.Input(input_shape)
    features = keras.layers.Conv2D(4, 25, 25, use_bias=False)(pixels)
    return keras.Model(pixels, keras.layers.Activation("relu", name=CUT)(features))


if __name__ == "__main__":
    _replace_when_built()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
