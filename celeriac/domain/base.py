"""Names, and the strict model that all specifications share."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from celeriac.kit.ids import parse_uuid
from celeriac.kit.words import counted


@dataclass(frozen=True, slots=True)
class Shape:
    """Annotates a text that must match `pattern` as a whole.

    The JSON schema contains the pattern; errors contain `words`, which say how to write the text.
    """

    pattern: str
    words: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return the validation that pydantic performs."""
        matches = re.compile(self.pattern).fullmatch

        def check(text: str) -> str:
            if matches(text) is None:
                raise ValueError(self.words)
            return text

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return the JSON schema with the pattern."""
        return {**handler(schema), "pattern": f"^{self.pattern}$"}


Word = Annotated[
    str,
    StringConstraints(min_length=1, max_length=100),
    Shape(
        r"[a-zA-Z0-9][a-zA-Z0-9._-]*",
        "begin with a letter or digit, and use letters, digits, '.', '_' and '-' only",
    ),
]
"""A text that is safe in URLs, file names and log lines."""


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("must have printable characters only; remove line ends and the like")
    return name


Label = Annotated[str, AfterValidator(_printable)]
"""A display name of printable characters; its length is limited where it is used."""


def _no_id(name: str) -> str:
    if parse_uuid(name) is not None:
        raise ValueError("must not look like an id; add a word to it")
    return name


Name = Annotated[Word, AfterValidator(_no_id)]
"""A name that users choose. It never looks like an id, because both can be references."""

VariableName = Annotated[
    str,
    StringConstraints(max_length=200),
    Shape(r"[A-Za-z_]\w*", "write a variable's name: letters, digits and '_', no digit first"),
]
"""The name of an environment variable."""

VariableNames = Annotated[
    tuple[VariableName, ...],
    Field(strict=False, max_length=100),
]
"""Names of the worker's environment variables that a child process may see."""


_UNKNOWN_FIELDS = 100


class Strict(BaseModel):
    """A frozen model that refuses unknown fields and values of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _has_no_flood_of_fields(cls, value: object) -> object:
        # every unknown field would be reported
        if isinstance(value, dict) and len(value) > len(cls.model_fields) + _UNKNOWN_FIELDS:
            raise ValueError(
                f"has {counted(len(value), 'field')}; there are: {', '.join(cls.model_fields)}"
            )
        return value
