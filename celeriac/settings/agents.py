"""What agents' child processes may see, and who they run as."""

from typing import Annotated

from pydantic import BeforeValidator, StringConstraints
from pydantic_settings import NoDecode

from celeriac.settings.readers import read_names

_Pattern = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_*?][A-Za-z0-9_*?]*$")]

VariablePatterns = Annotated[tuple[_Pattern, ...], NoDecode, BeforeValidator(read_names)]
"""Names of variables, and patterns of them, in a variable separated by commas."""

AgentUser = Annotated[
    str, StringConstraints(pattern=r"^([a-z_][a-z0-9_.-]*\$?|[0-9]+(:[0-9]+)?)$", max_length=64)
]
"""A user of the system: a name, a number, or `uid:gid`."""
