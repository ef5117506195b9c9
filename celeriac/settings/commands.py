"""The programs that agents of the kind `command` may name."""

from pathlib import PurePath
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints
from pydantic_settings import NoDecode

from celeriac.settings.readers import read_json


def _is_found_anywhere(line: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a program that would be looked for in the working directory of an execution."""
    is_path = "/" in line[0]  # `./x` too, which has one part
    if not line[0] or (is_path and not PurePath(line[0]).is_absolute()):
        raise ValueError(f"{line[0]!r} must be an absolute path, or a name to be looked up on PATH")
    return line


ProgramName = Annotated[
    str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]*$", max_length=100)
]
_Argument = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
CommandLine = Annotated[
    tuple[_Argument, ...], Field(min_length=1), AfterValidator(_is_found_anywhere)
]

Commands = Annotated[dict[ProgramName, CommandLine], NoDecode, BeforeValidator(read_json)]
"""Programs with their first arguments, by the names that agents use."""
