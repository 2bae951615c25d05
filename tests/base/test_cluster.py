"""Addresses of Ray clusters, and those that do not answer."""

from __future__ import annotations

import signal
import socket
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from base.cluster import check_address, open_ray
from base.errors import HeadstartError, UsageError
from tests.errors import raises
from tests.interrupts import handle_interrupts

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
    assert 'pip install "headstart[ray]"' in caught.value.advice


def test_cluster_that_does_not_answer_is_an_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"ray://127.0.0.1:{unused.getsockname()[1]}"
        with raises(HeadstartError, where=f"--distribute {address}"), open_ray("--distribute", address):
            pass


def test_interrupt_while_ray_starts_is_raised_after_the_start_and_ends_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    def start(**_: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        events.append("started")

    # Without Ray's private modules, whose contents differ between its versions.
    monkeypatch.setattr("base.errors.find_spec", lambda _: object())
    fake = SimpleNamespace(is_initialized=lambda: False, init=start, shutdown=lambda: events.append("ended"))
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.delitem(sys.modules, "ray._private.worker", raising=False)
    with handle_interrupts(), pytest.raises(KeyboardInterrupt), open_ray("--distribute", "ray"):
        events.append("used")
    assert events == ["started", "ended"]
