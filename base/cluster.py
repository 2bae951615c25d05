"""Connection to Ray: workers on this computer, or on the nodes of a cluster."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from base.errors import HeadstartError, UsageError, require_extra
from base.signals import defer_interrupt
from base.system import END_SIGNALS

if TYPE_CHECKING:
    from types import ModuleType

LOCAL = "local"
"""Value of an option for a computation in this process, without Ray."""
OWN = "ray"
"""Value of an option for workers on this computer, which end with the command."""
RUNNING = "auto"
"""Value of an option for the cluster of this computer or of `RAY_ADDRESS`."""
CONNECT_TIMEOUT_S = 10.0
_ADDRESS = re.compile(r"(?:ray://)?(?P<host>\[[0-9a-fA-F:]+\]|[^\s/:]+):(?P<port>[0-9]{1,5})\Z")
_ADVICE = "Omit it, or give ray, auto, or the address of a Ray cluster, such as ray://HOST:10001"


def check_address(option: str, address: str) -> None:
    """Raise UsageError if an address is not one of `open_ray`, or if Ray is not installed; nothing is imported.

    Args:
        option: name of the option, for the message.
        address: `ray`, `auto`, `HOST:PORT` or `ray://HOST:PORT`.
    """
    if address not in (OWN, RUNNING) and not _ADDRESS.match(address):
        raise UsageError(option, "local, ray, auto, HOST:PORT or ray://HOST:PORT", repr(address), _ADVICE)
    require_extra("ray", f"{option} {address}", "extract DISTRIBUTE=ray")


@contextmanager
def open_ray(option: str, address: str, num_cores: int | None = None) -> Iterator[ModuleType]:
    """Connect to Ray for the block, and yield the module `ray`; a connection that this process has is used and kept.

    Ray reports no usage, and prints nothing below errors. At the end, the connection is closed; Ray's processes end if
    this function started them.

    Args:
        option: name of the option with the address, for errors.
        address: `ray` starts Ray on this computer; `auto` connects to the cluster of this computer or of `RAY_ADDRESS`;
            `HOST:PORT` connects from a node of a cluster, and `ray://HOST:PORT` from any computer.
        num_cores: number of cores that `ray` may use; None for all.

    Raises:
        UsageError: the address is invalid, or Ray is not installed.
        HeadstartError: Ray does not start or answer.
    """
    check_address(option, address)
    # Read when Ray is imported. The second one would upload the current folder to the cluster under `uv run`.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    # After a failure, Ray would print those of the tasks whose results nobody takes any more.
    os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] = "1"
    import ray

    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address == OWN:
        # Ray's `local` starts a new cluster even if RAY_ADDRESS names one.
        options |= {"address": "local", "num_cpus": num_cores, "include_dashboard": False}
    else:
        require_answer(option, address)
        options |= {"address": address}
    with ExitStack() as stack:
        stack.enter_context(_silence_messages())
        handlers = {number: signal.getsignal(number) for number in END_SIGNALS}
        stack.callback(ray.shutdown)
        try:
            # An interrupt would leave those of Ray's processes that have started without its knowledge.
            with warnings.catch_warnings(), defer_interrupt() if address == OWN else nullcontext():
                warnings.simplefilter("ignore")
                ray.init(**options)
                _restore(handlers)
        except (Exception, SystemExit) as error:
            raise _build_error(option, address, error, ray.__version__) from error
        yield ray


@contextmanager
def _silence_messages() -> Iterator[None]:
    """Discard Ray's messages about lost workers: it prints them on stdout, where `--json` prints the result."""
    worker, name = sys.modules.get("ray._private.worker"), "print_to_stdstream"
    # Not public: another version of Ray may lack it.
    if (printer := getattr(worker, name, None)) is None:
        yield
        return
    setattr(worker, name, lambda *_, **__: None)
    try:
        yield
    finally:
        setattr(worker, name, printer)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    """Set the signal handlers of the command again: Ray replaces that of SIGTERM."""
    for number, handler in handlers.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def require_answer(option: str, address: str) -> None:
    """Raise HeadstartError if nothing accepts connections at an address; Ray itself tries for more than a minute.

    `local` and `ray` need no connection.
    """
    found = _ADDRESS.match(os.environ.get("RAY_ADDRESS", "") if address == RUNNING else address)
    if not found:
        return
    host, port = found["host"].strip("[]"), int(found["port"])
    try:
        socket.create_connection((host, port), CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        got = getattr(error, "strerror", None) or str(error)
        advice = "Check the address, the port and the firewall, and that the cluster is running (`ray status` there)"
        raise HeadstartError(f"{option} {address}", f"a Ray cluster at {host}:{port}", got, advice) from error


def _build_error(option: str, address: str, error: BaseException, version: str) -> HeadstartError:
    got = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    if isinstance(error, SystemExit):
        got = "another program at this address, or a cluster that does not answer"
    if address == OWN:
        advice = "Check the free memory and the free space in /tmp, or leave the option out"
        return HeadstartError(f"{option} {address}", "Ray to start on this computer", got, advice)
    advice = (
        f"Check that the cluster is running, with Ray {version} and this version of Python. If it needs a "
        "token, set RAY_AUTH_MODE=token"
    )
    return HeadstartError(f"{option} {address}", "a Ray cluster that answers", got, advice)
