"""Headers of HTTP that belong to one connection, and are not passed on."""

from collections.abc import Iterable

_OF_A_HOP = frozenset(
    """accept-encoding connection content-encoding content-length expect host keep-alive
    proxy-authenticate proxy-connection te trailer transfer-encoding upgrade""".split()
)


def without_hop_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the headers to pass on, their names in lower case; bodies are passed on decoded."""
    return {name.lower(): value for name, value in headers if name.lower() not in _OF_A_HOP}
