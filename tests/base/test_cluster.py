"""Addresses of Ray clusters, and those that do not answer."""

from __future__ import annotations

import socket

import pytest

from base.cluster import check_address, open_ray
from base.errors import HeadstartError, UsageError
from tests.errors import raises

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("address", ["ray", "auto", "node-1:6379", "ray://10.0.0.1:10001", "ray://[::1]:10001"])
def test_address_known_is_accepted(address: str) -> None:
    check_address("--distribute", address)


@pytest.mark.parametrize("address", ["", "Ray", "ray://", "ray://host", "http://host:1", "host", "a b:1"])
def test_address_unknown_is_refused(address: str) -> None:
    with raises(UsageError, where="--distribute", got=repr(address)):
        check_address("--distribute", address)


def test_address_without_ray_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("base.errors.find_spec", lambda _: None)
    with raises(UsageError, where="--distribute ray") as caught:
        check_address("--distribute", "ray")
    assert "pip install 'headstart[ray]'" in caught.value.advice


def test_cluster_that_does_not_answer_is_an_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"ray://127.0.0.1:{unused.getsockname()[1]}"
        with raises(HeadstartError, where=f"--distribute {address}"), open_ray("--distribute", address):
            pass
