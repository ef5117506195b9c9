"""The rules of an agent's network, and the first message of TLS."""

import asyncio
import ssl
from ipaddress import ip_address
from pathlib import Path

import pytest

from celeriac.agents.network import rules
from celeriac.agents.network.gate import Gate, Outgoing
from celeriac.agents.network.plain_http import is_request
from celeriac.agents.network.report import NetworkReport
from celeriac.agents.network.rules import (
    ConnectionRefusedByRuleError,
    NetworkBounds,
    NetworkRules,
    Rule,
)
from celeriac.agents.network.tls import MOST_BYTES, Hello, Reading, read_hello
from celeriac.domain.errors import WorkerMisconfiguredError
from celeriac.kit.destinations import Address, Destination
from celeriac.kit.outbound import OutboundGuard
from tests.support.run_context import RecordingContext


def hello(name: str | None) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("name", ["api.example.com", None])
def test_the_host_of_tls_is_read_once_the_message_is_whole(name: str | None) -> None:
    message = hello(name)

    assert all(read_hello(message[:end]) is Reading.INCOMPLETE for end in range(len(message)))
    assert read_hello(message) == read_hello(message + b"more") == Hello(name)


def test_a_message_in_several_records_is_read() -> None:
    message = hello("api.example.com")[5:]
    parts = [message[start : start + 100] for start in range(0, len(message), 100)]
    records = [b"\x16\x03\x01" + len(part).to_bytes(2) + part for part in parts]

    assert read_hello(b"".join(records[:-1])) is Reading.INCOMPLETE
    assert read_hello(b"".join(records)) == Hello("api.example.com")


def test_an_encrypted_name_is_seen_and_refused() -> None:
    message = bytearray(hello("api.example.com"))
    more = b"\xfe\x0d\x00\x02\x00\x00"
    place = 5 + 4 + 2 + 32
    place += 1 + message[place]
    place += 2 + int.from_bytes(message[place : place + 2])
    place += 1 + message[place]
    for start, width in ((3, 2), (6, 3), (place, 2)):
        size = int.from_bytes(message[start : start + width]) + len(more)
        message[start : start + width] = size.to_bytes(width)
    found = read_hello(bytes(message) + more)

    assert found == Hello("api.example.com", encrypted=True)
    bounds = NetworkRules((Destination.read("api.example.com"),), OutboundGuard(), named=True)
    gate = Gate(bounds, NetworkReport(RecordingContext(Path())))
    opened = Outgoing("api.example.com", 443)
    gate.check_tls_name(opened, Hello("api.example.com"))
    with pytest.raises(ConnectionRefusedByRuleError, match="ECH"):
        gate.check_tls_name(opened, found)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"SSH-2.0-OpenSSH\r\n", Reading.OTHER),
        (b"\x16\x02\x01", Reading.OTHER),
        (b"\x16\x03\x01\x00\x00", Reading.MALFORMED),
        (b"\x16\x03\x01\x00\x05\x02\x00\x00\x00\x00", Reading.MALFORMED),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", Reading.MALFORMED),
        (b"\x16\x03\x01\x00\x01\x01" + b"\x16\x03\x01\x00\x01\xff" * 20, Reading.MALFORMED),
        (b"\x15\x03\x01\x00\x02\x01\x5a", Reading.MALFORMED),  # a warning, before the message
        (b"\x15\x03", Reading.INCOMPLETE),
        (b"\x80\x2e\x01\x03\x03\x00", Reading.MALFORMED),  # a greeting of SSL 2
        (b"\xff", Reading.INCOMPLETE),
        (b"\x80\x2e\x01", Reading.INCOMPLETE),
        (b"\x80\x2e\x01\x05", Reading.OTHER),
        (b"\x80\x2e\x02\x03", Reading.OTHER),
        (b"\x16\x03\x01\xff\xff\x01\xff\xff\xff" + b"x" * MOST_BYTES, Reading.MALFORMED),
    ],
)
def test_what_is_no_first_message_is_not_taken_for_one(data: bytes, found: Reading) -> None:
    assert read_hello(data) is found


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n", True),
        (b"\r\n\nFOO /\x01 http/1.0\n", True),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", True),
        (b"SSH-2.0-OpenSSH_9.2\r\n", False),
        (b"EHLO there\r\n", False),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", False),
        (b"AMQP\x00\x00\x09\x01", False),
        (b"*1\r\n$4\r\nPING\r\n", False),
        (b"", None),
        (b"\r\n", None),
        (b"GE", None),
        (b"GET /\x00" + b"a" * 100, None),
    ],
)
def test_plain_http_is_distinguished_from_other_protocols(data: bytes, found: bool | None) -> None:
    assert is_request(data) is found


PUBLIC = "93.184.216.34"


def addresses(
    found: list[str], *, host: str = "api.example.com", private: tuple[str, ...] = ()
) -> list[Address]:
    """Return where a connection may go whose host has the addresses `found`."""

    async def resolve(name: str, port: int) -> list[Address]:
        del name, port
        return [ip_address(each) for each in found]

    guard = OutboundGuard.of(allow_private=False, allowed=private)
    allowed = NetworkRules((Destination.read("api.example.com"),), guard, named=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "resolve", resolve)
        return asyncio.run(allowed.addresses(host, 443))


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1",
     "0.0.0.0", "::1", "fe80::1", "fd00::1", "::ffff:a00:1", "64:ff9b::a00:1", "2002:a00:1::"],
)  # fmt: skip
def test_a_private_address_is_refused_behind_an_allowed_name(address: str) -> None:
    with pytest.raises(ConnectionRefusedByRuleError, match="CELERIAC_CONFINEMENT_PRIVATE") as late:
        addresses([address])

    assert late.value.rule is Rule.PRIVATE_ADDRESS
    assert [str(each) for each in addresses([address, PUBLIC])] == [PUBLIC]
    for private in ("api.example.com", address):
        assert [str(each) for each in addresses([address], private=(private,))] == [address]


def test_the_machine_s_own_public_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    own = frozenset({ip_address(PUBLIC)})
    monkeypatch.setattr(rules, "_own_addresses", lambda: own)

    with pytest.raises(ConnectionRefusedByRuleError):
        addresses([PUBLIC])


def test_the_addresses_of_the_machine_are_found() -> None:
    assert ip_address("127.0.0.1") in rules._own_addresses()


def test_a_worker_bounds_what_agents_ask_for() -> None:
    bounds = NetworkBounds(hosts=("*.example.com", "a.test"), default=("a.test",))

    assert bounds.rules(None).allows("a.test", 443)
    assert not bounds.rules(()).allows("a.test", 443)
    assert bounds.rules(["b.example.com:443"]).allows("b.example.com", 443)
    assert NetworkBounds(hosts=None).rules(["anything.test:22"]).allows("anything.test", 22)
    with pytest.raises(WorkerMisconfiguredError, match=r"'\*'.* CELERIAC_CONFINEMENT_HOSTS"):
        bounds.rules(["*"])
