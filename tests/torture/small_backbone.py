"""A backbone of one layer in InceptionV3's place, so that an export takes a second.

`python -m tests.torture.stand_in MODULE ARGUMENT...` runs a command with it.
"""

from __future__ import annotations

import runpy
import sys
from typing import Any

from extract import backbone

SIZE, CUT = 75, "mixed7"


def replace_backbone() -> None:
    """Let every backbone that is built from now on be the small one."""
    import keras

    keras.applications.InceptionV3 = _build_small


def _replace_when_built() -> None:
    """Replace it without importing TensorFlow earlier than the command does."""
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
