"""Cassettes as they are stored and listed."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class CassetteSummary:
    """A stored cassette without its content."""

    id: UUID
    """That of the execution, where one recorded it."""
    owner_id: UUID
    name: str
    execution_id: UUID | None
    """The execution that recorded it; None where it was uploaded."""
    interactions: int
    size: int
    """Bytes of its text."""
    complete: bool
    """False where the recording was stopped at a limit."""
    created_at: datetime
