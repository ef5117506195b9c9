"""Whether what a program sends through a tunnel is plain HTTP (RFC 9112, 3)."""

import re

_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+( |\Z)")
"""A token and a space, or the beginning of a token (RFC 9110, 5.6.2)."""

REFUSAL = (
    b"HTTP/1.1 403 Plain HTTP does not pass through a tunnel\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)


def is_request(data: bytes) -> bool | None:
    """Return whether `data` begins with a request line; None while that can't be known."""
    line, end, _ = data.lstrip(b"\r\n").partition(b"\n")
    if end:
        return b" HTTP/" in line.upper()
    return None if not line or _METHOD.match(line) else False
