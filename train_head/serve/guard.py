"""Checks before each request, and headers of each response, that keep other sites away from the page."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from train_head.serve.address import HostNames
from train_head.serve.errors import RequestError, build_response

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
DISCARD_S = 5.0
"""Time in which the rest of a body is dropped after an error, in seconds."""


class Guard:
    """Middleware that refuses requests of other sites, and adds `SECURITY_HEADERS` to all responses."""

    def __init__(self, app: ASGIApp, names: HostNames) -> None:
        """Protect an application; `names` are the names of this server."""
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        # After a response that does not wait for the end of the body, the connection must be closed.
        has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"

        async def receive_body() -> Message:
            nonlocal has_body
            message = await receive()
            has_body = has_body and bool(message.get("more_body"))
            return message

        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                found.update(SECURITY_HEADERS)
                if has_body and headers.get("expect", "").lower() != "100-continue":
                    await discard_body(receive_body)
                if has_body:
                    found["connection"] = "close"
            await send(message)

        try:
            check_origin(scope["method"], scope["path"], headers, self._names)
        except RequestError as error:
            await build_response(error)(scope, receive_body, send_protected)
        else:
            await self._app(scope, receive_body, send_protected)


async def discard_body(receive: Receive) -> None:
    """Read and drop the rest of a body, for a limited time: most clients read a response only after their request."""
    try:
        async with asyncio.timeout(DISCARD_S):
            while (await receive()).get("more_body"):
                pass
    except TimeoutError:
        return


def check_origin(method: str, path: str, headers: Mapping[str, str], names: HostNames) -> None:
    """Check that a request comes from the page itself, or from a program that is no browser.

    Links from other sites may open the page. They cannot request anything else.

    Raises:
        RequestError: a wrong Host, or a request of another site.
    """
    host, advice = headers.get("host", ""), "Open the page at the address that the command prints"
    if not names.allow(host):
        raise RequestError(400, "Host", "the address of this server", repr(host), advice)
    is_link = method == "GET" and path == "/"
    site = headers.get("sec-fetch-site", "none")
    if not is_link and site not in ("same-origin", "none"):
        raise RequestError(403, "Sec-Fetch-Site", "a request of this page", site, advice)
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"http://{host.lower()}":
        raise RequestError(403, "Origin", "a request of this page", repr(origin), advice)
