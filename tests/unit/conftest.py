"""Unit tests reach nothing outside their process."""

import socket
from typing import NoReturn

import pytest


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every outgoing connection of a unit test an error."""

    def refuse(self: socket.socket, address: object) -> NoReturn:
        pytest.fail(f"a unit test tried to connect to {address!r}; move it to tests/integration")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
