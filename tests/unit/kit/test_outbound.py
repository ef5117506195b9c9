import asyncio
from ipaddress import ip_address

import httpx2
import pytest

from celeriac.kit.outbound import (
    OutboundGuard,
    OutboundRefusedError,
    guarded_client,
    is_public,
    refusal,
)

NOWHERE_ELSE = OutboundGuard()


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:8.8.8.8",
                                     "::ffff:0:8.8.8.8", "168.63.129.17"])  # fmt: skip
def test_the_public_internet_may_be_reached(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1",
        "64:ff9b:1:ffff::8.8.8.8",
        "::ffff:0:10.0.0.1",
        "::ffff:0:a9fe:a9fe",
        "168.63.129.16",
        "::ffff:168.63.129.16",
        "64:ff9b::a83f:8110",
        "2002:a83f:8110::",
        "100.100.100.200",
        "192.0.0.192",
        "fd00:ec2::254",
        "192.88.99.1",
        "3fff::1",
        "5f00::1",
        "2002:7f00:1::",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "fe80::1",
        "fec0::1",
        "fd00::1",
        "ff02::1",
    ],
)
def test_everything_else_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


def test_what_an_operator_allows_may_be_reached_and_nothing_beside_it() -> None:
    guard = OutboundGuard.of(
        allow_private=False, allowed=["MCP.internal", "10.1.0.0/16", "192.168.0.7"]
    )

    assert guard.allows("mcp.internal", ip_address("10.9.9.9"))
    assert guard.allows("mcp.internal.", ip_address("10.9.9.9"))
    assert guard.allows("other", ip_address("10.1.200.3"))
    assert guard.allows("other", ip_address("192.168.0.7"))
    assert not guard.allows("other", ip_address("10.2.0.1"))
    assert not guard.allows("not-mcp.internal", ip_address("10.9.9.9"))
    assert guard.names("10.1.2.3")
    assert not guard.names("10.2.0.1")
    assert not guard.names("example.com")


@pytest.mark.parametrize("entry", ["10.1.2.3/8", "10.0.0.0/40", "fe80::zz"])
def test_a_malformed_network_is_told(entry: str) -> None:
    with pytest.raises(ValueError, match=entry):
        OutboundGuard.of(allow_private=False, allowed=[entry])


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9",
        "http://localhost:9",
        "http://2130706433:9",
        "http://0x7f.1:9",
        "http://[::1]:9",
        "http://[::ffff:7f00:1]:9",
    ],
)
def test_no_spelling_of_this_machine_is_connected_to(url: str) -> None:
    async def get() -> None:
        async with guarded_client(NOWHERE_ELSE, timeout_seconds=5, max_bytes=10) as client:
            await client.get(url)

    with pytest.raises(OutboundRefusedError, match="CELERIAC_OUTBOUND_ALLOW_HOSTS"):
        asyncio.run(get())


@pytest.mark.parametrize("url", ["http://example.com", "ftp://example.com", "file:///etc/passwd"])
def test_a_client_for_https_takes_no_other_scheme(url: str) -> None:
    async def get() -> None:
        guard = OutboundGuard(allow_private=True)
        async with guarded_client(
            guard, timeout_seconds=5, max_bytes=10, https_only=True
        ) as client:
            await client.get(url)

    with pytest.raises((OutboundRefusedError, httpx2.UnsupportedProtocol)):
        asyncio.run(get())


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/celeriac",
        "https://hooks.example.com:8443/a?b=c",
        "https://93.184.216.34/",
        "https://[2606:2800:220:1::1]/",
    ],
)
def test_urls_on_the_public_internet_are_allowed(url: str) -> None:
    assert refusal(NOWHERE_ELSE, url) is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example.com",
        "ftp://hooks.example.com/",
        "https://",
        "https:///path",
        "http://hooks.example.com/",
        "https://user@hooks.example.com/",
        "https://user:password@hooks.example.com/",
        "https://hooks.example.com\\@127.0.0.1/",
        "https://hooks.example.com/a b",
        "https://hooks.example.com/\n",
        "https://hooks.example.com:99999/",
        "https://[::1/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0177.0.0.1/",
        "https://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://a.localhost/",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    assert refusal(NOWHERE_ELSE, url) is not None


def test_an_allowed_host_may_be_private_and_without_tls() -> None:
    guard = OutboundGuard.of(allow_private=False, allowed=["hooks.internal", "10.0.0.0/8"])
    assert refusal(guard, "http://hooks.internal/") is None
    assert refusal(guard, "http://10.1.2.3/") is None
    assert refusal(guard, "https://192.168.0.1/") is not None
