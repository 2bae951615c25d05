"""Address of the page: the socket it listens on, and the names by which a browser may address it."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from dataclasses import dataclass

from base.errors import HeadstartError, UsageError

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[\w.-]+)(:[0-9]*)?")
"""Host header: a name or an address, and a port."""
_BACKLOG = 128
"""Number of connections that wait while the model is loaded."""


def open_socket(host: str, port: int, *, allow_network: bool) -> socket.socket:
    """Listen on an address.

    Args:
        host: an IP address, or a name such as `localhost`.
        port: the port; 0 chooses a free one.
        allow_network: whether the address may be reachable from other computers.

    Raises:
        UsageError: the address is unknown, is not loopback without `allow_network`, or its port is in use.
        HeadstartError: the system refuses the address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        got = f"{host!r} ({getattr(error, 'strerror', None) or error})"
        raise UsageError("--host", "an address of this computer", got, "Leave the option out for 127.0.0.1") from error
    if not allow_network and not ipaddress.ip_address(address[0]).is_loopback:
        advice = "Leave the option out, or add --allow-network to let other computers open the page"
        raise UsageError("--host", "a loopback address such as 127.0.0.1", host, advice)
    found = socket.socket(family, kind, protocol)
    try:
        # A port is free again as soon as the program that listened on it has ended.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(_BACKLOG)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            advice = "End the other program, or give another port; 0 chooses a free one"
            raise UsageError("--port", "a free port", f"{port}, which another program uses", advice) from error
        if error.errno == errno.EADDRNOTAVAIL:
            advice = "Leave the option out for 127.0.0.1"
            raise UsageError("--host", "an address of this computer", host, advice) from error
        got, advice = error.strerror or str(error), "Give another port, above 1023"
        raise HeadstartError(f"{host}:{port}", "a port that can be opened", got, advice) from error
    return found


def is_loopback(listener: socket.socket) -> bool:
    """Return whether only this computer can connect to a listening socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def format_address(listener: socket.socket) -> str:
    """Return the address of the page, such as `http://127.0.0.1:8000/`."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


@dataclass(frozen=True)
class HostNames:
    """Names of this server in the Host header.

    A name of another server that resolves to this address (DNS rebinding) would let the pages of that server read the
    answers. An IP address needs no name server, so it cannot be rebound.
    """

    is_local: bool
    """Whether only this computer can connect."""

    def allow(self, host: str) -> bool:
        """Return whether a Host header names this server. The port may differ, as with a tunnel of SSH."""
        found = _HOST.fullmatch(host.lower())
        name = found[1].strip("[]") if found else ""
        try:
            address = ipaddress.ip_address(name)
            return address.is_loopback or not self.is_local
        except ValueError:
            own = socket.gethostname().lower()
            return name == "localhost" or (not self.is_local and name in (own, f"{own}.local"))
