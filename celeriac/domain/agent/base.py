"""What all kinds of agents share: names, the runners there are, strict models."""

from enum import StrEnum
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from celeriac.kit.ids import parse_uuid

Word = Annotated[
    str,
    StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]*$", min_length=1, max_length=100),
]
"""A text that is safe in URLs, file names and log lines."""


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("must have printable characters only; remove line ends and the like")
    return name


Label = Annotated[str, AfterValidator(_printable)]
"""A name for people alone, of any printable characters; wherever it is used it has a length."""


def _no_id(name: str) -> str:
    if parse_uuid(name) is not None:
        raise ValueError("must not look like an id; add a word to it")
    return name


Name = Annotated[Word, AfterValidator(_no_id)]
"""A name that people give; where a name or an id can stand, it is never taken for an id."""

VariableNames = Annotated[
    tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*$", max_length=200)], ...],
    Field(strict=False, max_length=100),
]
"""Names of the worker's environment variables that a child process may see."""


class RunnerName(StrEnum):
    """The kinds of agents that this release can drive."""

    LLM = "llm"
    PYTHON = "python"
    COMMAND = "command"
    CLAUDE = "claude"
    CREWAI = "crewai"


_UNKNOWN_FIELDS = 100


class Strict(BaseModel):
    """A frozen model that refuses unknown fields and values of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _has_no_flood_of_fields(cls, value: object) -> object:
        # each unknown field would become a fault of its own
        if isinstance(value, dict) and len(value) > len(cls.model_fields) + _UNKNOWN_FIELDS:
            raise ValueError(f"has {len(value)} fields; there are: {', '.join(cls.model_fields)}")
        return value
