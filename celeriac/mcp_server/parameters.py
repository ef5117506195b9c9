"""Parameters that several tools share, said once."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

TaskName = Annotated[str, Field(min_length=1, max_length=200, description="The task's name or id.")]
ExecutionId = Annotated[UUID, Field(description="The execution's id.")]
Limit = Annotated[int, Field(ge=1, le=200, description="How many to return at most.")]
Offset = Annotated[int, Field(ge=0, description="Characters to pass over.")]
Characters = Annotated[
    int, Field(ge=100, le=200_000, description="How many characters to return at most.")
]
