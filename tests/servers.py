"""S3 server on 127.0.0.1, and a bucket for each test. The address and keys are set as users set them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from itertools import count
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

_NUMBERS = count(1)


@dataclass(frozen=True)
class Bucket:
    """Empty bucket of the server."""

    name: str
    server: str
    """Address of the server, `http://127.0.0.1:PORT`."""

    @property
    def url(self) -> str:
        """URL of the bucket, `s3://NAME`."""
        return f"s3://{self.name}"

    def put(self, key: str, data: bytes) -> str:
        """Store an object, and return its URL."""
        _send(f"{self.server}/{self.name}/{key}", "PUT", data)
        return f"{self.url}/{key}"

    def get(self, key: str) -> bytes:
        """Return the bytes of an object."""
        return _send(f"{self.server}/{self.name}/{key}", "GET")

    def delete(self, key: str) -> None:
        """Remove an object."""
        _send(f"{self.server}/{self.name}/{key}", "DELETE")

    def list_keys(self) -> list[str]:
        """List the keys of all objects (up to 1,000), sorted."""
        return [
            unescape(key) for key in re.findall("<Key>(.*?)</Key>", _send(f"{self.server}/{self.name}", "GET").decode())
        ]

    @contextmanager
    def forbid(self) -> Iterator[None]:
        """Let the server refuse every request of a client (403): it knows no user with the keys of the environment."""
        _send(f"{self.server}/moto-api/reset-auth", "POST", b"0")
        try:
            yield
        finally:
            _send(f"{self.server}/moto-api/reset-auth", "POST", b"inf")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of an S3 server, which is started once."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Bucket that no other test uses, and the environment that s3fs needs to find it."""
    values = {"ENDPOINT_URL": s3_server, "ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret"}
    for name, value in (values | {"DEFAULT_REGION": "us-east-1"}).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    # A server on this computer needs no proxy, and no file of the user changes the settings.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    bucket = Bucket(f"bucket-{next(_NUMBERS)}", s3_server)
    _send(f"{s3_server}/{bucket.name}", "PUT")
    return bucket


def _send(url: str, method: str, data: bytes | None = None) -> bytes:
    # The server refuses reads without a signature, which it does not verify.
    signature = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request"
    headers = {"Content-Type": "application/octet-stream", "Authorization": signature}
    with urlopen(Request(quote(url, safe=":/"), data, headers, method=method)) as answer:
        return bytes(answer.read())
