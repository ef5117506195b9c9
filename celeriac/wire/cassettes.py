"""Cassettes."""

from datetime import datetime
from uuid import UUID

from pydantic import Field

from celeriac.wire.base import Links, Wire, links


class Cassette(Wire):
    """The recorded model traffic of an execution, or an uploaded one."""

    id: UUID = Field(description="The id of the execution, if one recorded it.")
    workspace_id: UUID
    owner_id: UUID = Field(description="Who made it.")
    name: str = Field(
        description="The recorded task's name, or the name at upload.", examples=["summarise"]
    )
    execution_id: UUID | None = Field(description="The execution that recorded it.")
    interactions: int = Field(description="Recorded requests.")
    size: int = Field(description="Bytes of its text.", examples=[18452])
    complete: bool = Field(
        description="False if the recording stopped at its size limit.", examples=[True]
    )
    created_at: datetime
    links: Links = links(
        self="/api/v1/cassettes/{id}",
        content="/api/v1/cassettes/{id}/content",
        execution="/api/v1/task-executions/{execution_id}",
    )
