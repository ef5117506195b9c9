"""Settings of secrets: keys of their encryption, and what workers read on their machines."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    model_validator,
)
from pydantic_settings import NoDecode

from celeriac.settings.sections import CommandLine, Entry, ProgramName, read_json, read_names

_KEY_CHARACTERS = 32


def _are_long(keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    if any(len(key.get_secret_value()) < _KEY_CHARACTERS for key in keys):
        raise ValueError(f"each key must have at least {_KEY_CHARACTERS} characters")
    return keys


EncryptionKeys = Annotated[
    tuple[SecretStr, ...], NoDecode, BeforeValidator(read_names), AfterValidator(_are_long)
]
"""Keys, separated by commas in a variable."""


class SecretSourceSettings(Entry):
    """Where a worker reads the value of a secret: a variable, a file, or a program's output."""

    environment: (
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*$", max_length=200)] | None
    ) = None
    file: Path | None = None
    command: CommandLine | None = None
    timeout_seconds: float = Field(default=10.0, gt=0, le=60)
    """Time limit of the command."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if sum(each is not None for each in (self.environment, self.file, self.command)) != 1:
            raise ValueError("give it one of environment, file and command")
        if self.file is not None and not self.file.is_absolute():
            raise ValueError("file must be an absolute path")
        return self


SecretSources = Annotated[
    dict[ProgramName, SecretSourceSettings], NoDecode, BeforeValidator(read_json)
]
"""Sources by the names that secrets refer to."""
