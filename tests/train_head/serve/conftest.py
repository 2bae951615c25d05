"""Server that the tests of requests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.train_head.serve.servers import Client, start_server


@pytest.fixture(scope="package")
def client() -> Iterator[Client]:
    """Client of a server with ordinary limits, without training pictures."""
    with start_server() as found:
        yield found
