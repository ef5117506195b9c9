"""Tokens that are made for each attempt, and end by themselves."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import Field, StringConstraints

from celeriac.domain.base import Strict
from celeriac.domain.errors import InvalidInputError


class GithubApp(Strict):
    """An app of GitHub, and what its tokens may do: in one repository, for an hour."""

    app_id: int = Field(ge=1)
    installation_id: int = Field(ge=1)
    repository: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,100}$")] = Field(
        examples=["shop"]
    )
    """The repository's name, without its owner."""
    permissions: dict[
        Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,60}$")], Literal["read", "write"]
    ] = Field(min_length=1, max_length=50, examples=[{"contents": "read"}])
    """What the token may do, by GitHub's names; the app itself may be allowed more."""


@dataclass(frozen=True, slots=True)
class Minted:
    """A token, and when it ends."""

    token: str = field(repr=False)
    expires_at: datetime


def private_key(text: str) -> RSAPrivateKey:
    """Return an RSA key in PEM, without a password. Raises InvalidInputError, without the text."""
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise InvalidInputError(
            "The value is not the private key of a GitHub App: give the PEM file that GitHub has "
            "made for the app, an RSA key without a password.",
            field="value",
        )
    return key
