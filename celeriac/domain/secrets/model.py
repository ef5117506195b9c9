"""Secrets of workspaces, without their values."""

from base64 import b64encode
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from celeriac.domain.errors import InvalidInputError
from celeriac.kit.json_types import JsonObject
from celeriac.kit.words import counted

MOST_SECRETS: Final = 200
"""How many secrets a workspace may have."""

SHORTEST_VALUE: Final = 8
"""Characters. A shorter value would be masked in texts that have nothing to do with it."""

LONGEST_VALUE: Final = 64_000
"""Characters; Linux takes environment variables of up to 128 KiB."""


class SecretSource(StrEnum):
    """Where the value of a secret comes from."""

    STORED = "stored"
    """It was given through the API, and is stored encrypted."""
    WORKER = "worker"
    """A worker reads it on its own machine, as its administrator has configured."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret of a workspace; its value is never shown."""

    id: UUID
    workspace_id: UUID
    owner_id: UUID
    created_by: str
    """The owner's name at the time."""
    name: str
    source: SecretSource
    worker_source: str | None
    """The name in the workers' `CELERIAC_SECRET_SOURCES`."""
    github_app: JsonObject | None
    """The app whose tokens attempts get instead of the value, its private key (`GithubApp`)."""
    description: str
    version: int
    """It counts the values that the secret has had."""
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class HostCredential:
    """A header that the proxy of an attempt adds to plain requests to one host and port."""

    host: str
    port: int
    """80, or the port of requests that are sent on to the same port with TLS."""
    header: str
    value: str = field(repr=False)


def header_value(template: str, user: str | None, secret: str) -> str:
    """Return the value of a header: the template, or Basic authentication (RFC 7617) of a user."""
    if user is not None:
        return "Basic " + b64encode(f"{user}:{secret}".encode()).decode()
    return template.replace(PLACE, secret)


def value_fault(value: str) -> str | None:
    """Return why `value` can't be the value of a secret, with the cure, or None."""
    if len(value.strip()) < SHORTEST_VALUE:
        return (
            f"it has {counted(len(value.strip()), 'character')} besides blanks. Shorter values "
            f"than {SHORTEST_VALUE} can't be masked in what agents write: use a longer one"
        )
    if len(value) > LONGEST_VALUE:
        return f"it has more than {LONGEST_VALUE:,} characters: give the agent a file instead"
    if "\x00" in value:
        return "it has a NUL character, which no environment variable can hold: encode it"
    return None


def check_value(value: str) -> None:
    """Raise InvalidInputError unless `value` can be the value of a secret; never repeats it."""
    fault = value_fault(value)
    if fault is not None:
        raise InvalidInputError(f"The value can't be used: {fault}.", field="value")


HTTP_PORT: Final = 80
HTTPS_PORT: Final = 443
PLACE: Final = "{secret}"
"""Where the value stands in the template of a header."""

_ENDS = (
    "TOKEN|PAT|KEY|KEY_ID|SECRET|SECRET_ID|PASSWORD|PASSPHRASE|CREDENTIALS?|AUTH|DSN|URL|USER|"
    "USERNAME"
)
VARIABLE_PATTERN: Final = rf"(?:[A-Z][A-Z0-9_]*)?(?:{_ENDS})"
"""Names of variables for secrets. PATH, LD_PRELOAD, GIT_SSH_COMMAND and the like change what a
program does, so that its value would be code: no such name ends like these."""

VARIABLE_WORDS: Final = (
    "write capital letters, digits and '_', with an end such as TOKEN, KEY, SECRET, PASSWORD, "
    "CREDENTIALS, DSN, URL or USER, as in GITHUB_TOKEN"
)
