"""Cassettes."""

from datetime import datetime
from uuid import UUID

from pydantic import Field

from celeriac.wire import examples
from celeriac.wire.base import Links, Wire, example


class Cassette(Wire):
    """The recorded model traffic of an execution, or an uploaded one."""

    model_config = example(examples.CASSETTE)

    id: UUID = Field(description="That of the execution, where one recorded it.")
    owner_id: UUID
    name: str = Field(description="The recorded task's, or as it was uploaded.")
    execution_id: UUID | None = Field(description="The execution that recorded it.")
    interactions: int = Field(description="Recorded requests.")
    size: int = Field(description="Bytes of its text.")
    complete: bool = Field(description="False where the recording was stopped at its size limit.")
    created_at: datetime
    links: Links = Field(alias="_links")
