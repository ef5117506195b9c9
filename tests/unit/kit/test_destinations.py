import pytest

from celeriac.kit.destinations import Destination, first_uncovered, read_host


@pytest.mark.parametrize(
    ("pattern", "host", "port", "allowed"),
    [
        ("api.github.com", "api.github.com", 443, True),
        ("api.github.com", "api.github.com", 80, True),
        ("api.github.com", "api.github.com", 22, False),
        ("api.github.com", "xapi.github.com", 443, False),
        ("api.github.com:22", "api.github.com", 443, False),
        ("API.GitHub.com.", "api.github.com", 443, True),
        ("*.pypi.org:443", "files.a.pypi.org", 443, True),
        ("*.pypi.org:443", "pypi.org", 443, False),
        ("*.pypi.org:443", "evilpypi.org", 443, False),
        ("*", "anything.at.all", 443, True),
        ("*", "8.8.8.8", 443, False),
        ("*", "2001:db8::1", 443, False),
        ("127.0.0.1:8080", "127.0.0.1", 8080, True),
        ("0x7f.1:8080", "127.0.0.1", 8080, True),
        ("[2001:DB8:0::1]", "2001:db8::1", 443, True),
    ],
)
def test_a_pattern_allows_hosts_and_ports(
    pattern: str, host: str, port: int, *, allowed: bool
) -> None:
    assert Destination.read(pattern).allows(host, port) is allowed


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("", "write a host"),
        ("https://api.github.com", "no scheme"),
        ("api.github.com/path", "no path"),
        ("api.github.com:", "leave the colon out"),
        ("api.github.com:https", "from 1 to 65535"),
        ("api.github.com:0", "from 1 to 65535"),
        ("api.github.com:65536", "from 1 to 65535"),
        ("api.github.com:000443", "from 1 to 65535"),
        ("api.*.com", "only as its first part"),
        ("*.*.com", "write a host"),
        ("*github.com", "only as its first part"),
        ("*.10.0.0.1", "before an address"),
        ("2001:db8::1", "brackets"),
        ("::1", "brackets"),
        ("[api.github.com]", "brackets around"),
        ("fe80::1%eth0", "brackets"),
        ("bücher.example", "xn--"),
        ("user@host", "write a host"),
        ("a b", "write a host"),
        ("a..b", "write a host"),
        ("1.2.3.4.5", "write a host"),
        (f"{'a' * 64}.com", "write a host"),
    ],
)
def test_what_is_no_pattern_is_told_how_to_be_written(text: str, cure: str) -> None:
    with pytest.raises(ValueError, match=cure):
        Destination.read(text)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("127.1", "127.0.0.1"), ("2130706433", "127.0.0.1"), ("0x7f000001", "127.0.0.1"),
        ("017700000001", "127.0.0.1"), ("[::FFFF:127.0.0.1]", "::ffff:7f00:1"),
        ("Example.COM.", "example.com"),
    ],
)  # fmt: skip
def test_a_host_has_one_form(text: str, host: str) -> None:
    assert read_host(text) == host


@pytest.mark.parametrize(
    ("asked", "bounds", "place"),
    [
        ([], [], None),
        (["api.github.com"], [], 0),
        (["api.github.com"], ["*"], None),
        (["api.github.com:22"], ["*"], 0),
        (["api.github.com"], ["*.github.com:443"], 0),
        (["api.github.com"], ["*.github.com:443", "api.github.com:80"], None),
        (["*.github.com"], ["api.github.com"], 0),
        (["*.api.github.com"], ["*.github.com"], None),
        (["*.github.com"], ["*.api.github.com"], 0),
        (["*"], ["*.github.com"], 0),
        (["github.com", "10.0.0.1"], ["*"], 1),
        (["10.0.0.1"], ["10.0.0.1"], None),
    ],
)
def test_an_agent_asks_for_what_its_bounds_cover(
    asked: list[str], bounds: list[str], place: int | None
) -> None:
    assert first_uncovered(asked, bounds) == place
