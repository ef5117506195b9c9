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


def checked_url(url: str | None, schemes: Sequence[str]) -> str | None:
    """Return `url`; its text stays out of the message, for it may hold a password."""
    if url is not None and urlsplit(url).scheme not in schemes:
        raise ValueError(f"must begin with {schemes[0]}://")
    return url
