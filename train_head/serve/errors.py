"""Errors of requests: HTTP status and JSON object."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import JSONResponse

from base.errors import HeadstartError
from base.terminal import make_json

RETRY_AFTER_S = 2


class RequestError(HeadstartError):
    """Request that cannot be answered; `status` is its HTTP status."""

    def __init__(self, status: int, where: object, expected: str, got: str, advice: str) -> None:
        """Create the error; `where` is the header, the picture or the path with the wrong value."""
        super().__init__(where, expected, got, advice)
        # Pickle recreates the error from these arguments.
        self.args = (status, where, expected, got, advice)
        self.status = status


class AsciiJSONResponse(JSONResponse):
    """JSON response in which a label or a path may contain bytes that are not UTF-8, and NaN becomes null."""

    def render(self, content: object) -> bytes:
        """Encode the object; all characters but those of ASCII are escaped."""
        return json.dumps(make_json(content), ensure_ascii=True, allow_nan=False).encode()


def describe_error(error: HeadstartError) -> dict[str, str]:
    """Return the JSON object of an error, with the keys of `--json`."""
    fields = {name: str(getattr(error, name)) for name in ("where", "expected", "got", "advice")}
    return {"error": str(error)} | fields


def build_response(error: RequestError, more: Mapping[str, object] | None = None) -> AsciiJSONResponse:
    """Return the response to a request with an error.

    Args:
        error: the error.
        more: further keys of the JSON object.
    """
    headers = {"retry-after": str(RETRY_AFTER_S)} if error.status == 503 else {}
    return AsciiJSONResponse({**describe_error(error), **(more or {})}, error.status, headers)
