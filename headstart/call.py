"""Arguments of an API call, and its console: progress if asked for, and warnings as Python warnings."""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

from base.errors import HeadstartWarning, UsageError
from base.options import describe_preset, make_options
from base.terminal import Console, ConsoleOptions, ProgressCallback
from headstart.document import use_keywords

StrPath = str | os.PathLike[str]
Progress = bool | ProgressCallback | None
Config = TypeVar("Config")


class _ApiConsole(Console):
    """Console of an API call: silent unless progress is True; warnings are issued with `warnings.warn`."""

    def __init__(self, progress: Progress) -> None:
        is_quiet = progress is not True or sys.stderr is None
        super().__init__(ConsoleOptions(quiet=is_quiet), progress if callable(progress) else None)

    def info(self, message: str) -> None:
        """Print a message with keywords in place of options of the command line."""
        super().info(use_keywords(message))

    def warning(self, message: str) -> None:
        """Issue a HeadstartWarning that points at the line of the API call."""
        frames = enumerate(inspect.stack())
        depth = next((depth for depth, frame in frames if not _is_internal(frame.frame.f_globals)), 1)
        warnings.warn(use_keywords(message), HeadstartWarning, stacklevel=depth + 1)


def _is_internal(frame_globals: Mapping[str, Any]) -> bool:
    package = str(frame_globals.get("__name__", "")).partition(".")[0]
    return package in {"base", "features", "extract", "train_head", "headstart", "contextlib"}


def open_console(progress: Progress) -> Console:
    """Check `progress` and Keras's backend, and create the console of an API call."""
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        advice = "Give True to print the progress, or a function of (stage, done, total, rate)"
        raise UsageError("progress", "None, True, False or a function", repr(progress), advice)
    keras = sys.modules.get("keras")
    if keras is not None and keras.config.backend() != "tensorflow":
        advice = "Set KERAS_BACKEND=tensorflow before keras is imported"
        raise UsageError("keras", "the TensorFlow backend", keras.config.backend(), advice)
    # The environment variable overrides Keras's configuration file.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    return _ApiConsole(progress)


def prepare_call(
    options: type[Config], values: Mapping[str, Any], function: str, progress: Progress
) -> tuple[Config, Console]:
    """Return the options and the console of a call, and print what the preset sets."""
    config, console = make_options(options, values, function), open_console(progress)
    if preset := describe_preset(config):
        console.info(preset)
    return config, console


def locate_run(run: Any) -> Any:
    """Return the folder of a run; raise HeadstartError if the folder now holds another run."""
    from train_head.runs.read import Run

    if not isinstance(run, Run):
        return run
    run.require_unchanged()
    return run.folder
