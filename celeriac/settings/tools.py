"""The MCP servers that agents may name."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints, model_validator
from pydantic_settings import NoDecode

from celeriac.settings.commands import CommandLine, ProgramName
from celeriac.settings.readers import checked_url, read_json

_Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*$", max_length=200)]
_Header = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+$", max_length=200)]


class McpServerSettings(BaseModel):
    """A program over stdio, or an address; one of the two."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: CommandLine | None = None
    environment: tuple[_Variable, ...] = ()
    """Names of the worker's variables that the program sees."""
    url: str | None = None
    headers: dict[_Header, _Variable] = {}
    """Names of the worker's variables that hold the values of request headers."""

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if (self.command is None) == (self.url is None):
            raise ValueError("give it a command or a url, and not both")
        if self.command is None and self.environment:
            raise ValueError("environment is for servers with a command")
        if self.url is None and self.headers:
            raise ValueError("headers are for servers with a url")
        checked_url(self.url, ("https", "http"))
        return self


def _read_json_or_file(value: Any) -> Any:
    """Read a JSON object, or the file that is named instead of one."""
    if not isinstance(value, str) or value.lstrip().startswith("{"):
        return read_json(value)
    try:
        text = Path(value).read_text()
    except OSError as error:
        raise ValueError(f"must be a JSON object or a readable file: {error}") from error
    return read_json(text)


McpServersSettings = Annotated[
    dict[ProgramName, McpServerSettings], NoDecode, BeforeValidator(_read_json_or_file)
]
"""Servers by the names that agents use."""
