"""The findings of doctor."""

from pydantic import Field

from celeriac.domain.doctor import Code, Level
from celeriac.wire.base import Wire


class DoctorFinding(Wire):
    """The result of one check."""

    code: Code = Field(
        description="What it is about. Stable across releases; listed in docs/operations.md.",
        examples=["schema"],
    )
    subject: str = Field(description="The code, as people read it.", examples=["schema"])
    level: Level = Field(description="ok, warning or failed.", examples=["warning"])
    message: str = Field(
        examples=["the database has revision 0001_initial, this release needs 0002_labels"]
    )
    cure: str | None = Field(
        description="What helps; null if all is well, or the message has it.",
        examples=["Run `celeriac db upgrade`."],
    )


class Doctor(Wire):
    """The findings of all checks that the API can make."""

    ok: bool = Field(description="Whether nothing has failed.", examples=[True])
    findings: list[DoctorFinding]
