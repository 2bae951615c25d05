"""Headstart: extract features once, retrain heads in seconds.

Modules are imported when they are first used: `import headstart` takes milliseconds, and TensorFlow is imported by the
first call that needs it: extraction, export, prediction, fine-tuning or the full solver.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = [
    "HeadClassifier",
    "HeadstartError",
    "advise",
    "errors",
    "export",
    "extract",
    "open_store",
    "predict",
    "report",
    "suggest",
    "sweep",
    "train",
]
_MODULES = {
    "HeadClassifier": "train_head.classifier",
    "HeadstartError": "base.errors",
    **dict.fromkeys(("export", "predict", "suggest"), "headstart.models"),
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("base.errors")
    if name == "__version__":
        return importlib.import_module("base.version").find_version("headstart")
    if name not in __all__:
        raise AttributeError(f"module 'headstart' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES.get(name, "headstart.api")), name)


def __dir__() -> list[str]:
    return __all__
