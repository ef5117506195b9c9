"""How values are read from variables of the environment."""

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

from celeriac.kit.jsontypes import loads


def read_names(value: Any) -> Any:
    """Read names from a variable: `a,b` or `["a", "b"]`."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return read_json(value)
    return [name.strip() for name in value.split(",") if name.strip()]


def read_json(value: Any) -> Any:
    """Read a JSON text; raises ValueError for what is none."""
    if not isinstance(value, str):
        return value
    try:
        return loads(value)
    except ValueError as error:
        raise ValueError(f"must be JSON: {error}") from error


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(read_names)]
"""Names, in a variable separated by commas."""


_MOST_PORT = 65535


def checked_url(url: str | None, schemes: Sequence[str] = ()) -> str | None:
    """Return `url` if it has one of the schemes (if any are given), and a valid port.

    Raises ValueError. The URL stays out of the message: it may hold a password.
    """
    if url is None:
        return url
    parts = urlsplit(url)
    if schemes and parts.scheme not in schemes:
        raise ValueError("must begin with " + " or ".join(f"{each}://" for each in schemes))
    for host in parts.netloc.rpartition("@")[2].split(","):
        _, colon, port = host.rpartition("]")[2].partition(":")
        if colon and port and not (port.isascii() and port.isdigit() and int(port) <= _MOST_PORT):
            raise ValueError("has a port that is no number from 0 to 65535")
    return url
