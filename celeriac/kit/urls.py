"""Splits URLs that may name several hosts."""

import re
from urllib.parse import SplitResult

_PARTS = re.compile(r"(?:([^:/?#]+):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
"""RFC 3986, appendix B."""


def split_hosts(url: str) -> SplitResult:
    """Return the parts of `url`, whose hosts may be a list such as `a:5432,[::1]`.

    `urlsplit` of newer Pythons refuses an address in brackets behind another host. The hosts are
    not checked: `hostname` and `port` of the result are those of a single host only.
    """
    found = _PARTS.fullmatch(url)
    assert found is not None, "the pattern fits every text"
    scheme, netloc, path, query, fragment = (part or "" for part in found.groups())
    return SplitResult(scheme.lower(), netloc, path, query, fragment)
