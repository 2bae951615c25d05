"""Environment: the interpreter, the command on the PATH, the encoding, and variables that change the behaviour."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from base.errors import UsageError
from headstart.doctor.findings import Finding, Status

_SHOWN = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TF_ENABLE_ONEDNN_OPTS", "TF_NUM_INTRAOP_THREADS", "XLA_FLAGS")
"""Variables whose value is shown."""
_NAMED = (
    *("HEADSTART_CACHE", "HEADSTART_WEIGHTS_URL", "KERAS_HOME", "PYTHONPATH", "PYTHONHOME", "LD_PRELOAD"),
    *("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "XDG_CACHE_HOME"),
)
"""Variables of which only the name is shown, because their value is personal."""


def check_environment(backend: str = "") -> Iterator[Finding]:
    """Check the interpreter and its environment.

    Args:
        backend: value of KERAS_BACKEND before Headstart changed it.
    """
    yield Finding("environment", f"{_name_environment()}, {sys.executable}")
    yield check_command(shutil.which("headstart"))
    encoding = sys.getfilesystemencoding()
    terminal = getattr(sys.stdout, "encoding", None) or "no"
    advice = "" if encoding == "utf-8" else "Set a UTF-8 locale, such as LANG=C.UTF-8, or PYTHONUTF8=1"
    status = Status.NOTE if advice else Status.OK
    yield Finding("encoding", f"{encoding} for file names, {terminal} for the output", status, advice)
    shown = [f"{name}={os.environ[name]}" for name in _SHOWN if name in os.environ]
    shown += [f"{name} is set" for name in _NAMED if name in os.environ]
    yield Finding("environment variables", ", ".join(shown) or "none that change the behaviour")
    if backend not in ("", "tensorflow"):
        advice = "In Python, set KERAS_BACKEND=tensorflow before Keras is imported; the commands do so themselves"
        yield Finding("KERAS_BACKEND", backend, Status.NOTE, advice)


def check_configuration() -> Iterator[Finding]:
    """Check the configuration file of the current folder."""
    from base.configuration import find_configuration, read_defaults
    from headstart.doctor.__main__ import DoctorConfig

    try:
        configuration = find_configuration(Path.cwd())
        if configuration:
            read_defaults(configuration, "doctor", DoctorConfig)
    except UsageError as error:
        found = f"{error.where}: expected {error.expected}, got {error.got}"
        yield Finding("configuration file", found, Status.PROBLEM, error.advice)
    else:
        yield Finding("configuration file", str(configuration.path) if configuration else "none")


def _name_environment() -> str:
    if "CONDA_PREFIX" in os.environ and Path(os.environ["CONDA_PREFIX"]) == Path(sys.prefix):
        return "conda environment"
    return "virtual environment" if sys.prefix != sys.base_prefix else "no virtual environment"


def check_command(found: str | None) -> Finding:
    """Check that the command `headstart` on the PATH belongs to the running interpreter.

    Args:
        found: path of the command; None if there is none.
    """
    if found is None:
        return Finding("command headstart", "not on the PATH; `python -m headstart` works without it")
    if Path(found).absolute().parent == Path(sys.executable).absolute().parent:
        return Finding("command headstart", "of this environment")
    advice = "Activate the environment that you want, or run `python -m headstart` with its Python"
    return Finding("command headstart", f"of another environment: {found}", Status.NOTE, advice)
