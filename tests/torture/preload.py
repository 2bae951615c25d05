"""What a process does before it is forked, so that a trial takes a tenth of a second and not three."""

from __future__ import annotations

import gc
import importlib
import os
import warnings
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

LAZY = ("tensorflow.", "keras.")


def import_all(modules: Iterable[str]) -> None:
    """Import what a command imported in a child; a collection in a later child would copy every page."""
    # Importing TensorFlow as a whole starts nothing that a fork would lose; some of its parts would.
    names = dict.fromkeys(name.split(".")[0] if name.startswith(LAZY) else name for name in modules)
    with warnings.catch_warnings(action="ignore"):
        for name in names:
            # Some modules are made by others, and cannot be imported by their names.
            with suppress(Exception):
                importlib.import_module(name)
    gc.freeze()


def simplify() -> None:
    """Leave plots empty: their drawing takes longer than all the rest."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    from matplotlib.axes import Axes

    def draw(*_: Any, **__: Any) -> None:
        pass

    Axes.draw = draw  # type: ignore[method-assign]
    Axes.get_tightbbox = draw  # type: ignore[method-assign]
