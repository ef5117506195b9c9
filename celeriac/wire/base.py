"""What all answers share."""

from decimal import Decimal
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from celeriac.domain.usage import dollars

Dollars = Annotated[Decimal, PlainSerializer(dollars, return_type=str, when_used="json")]
"""US dollars, in JSON a text such as `0.00` or `1.2045`: no digit is lost."""

Links = dict[str, str | None]
"""Paths by what they lead to; null where there is nothing yet."""

T = TypeVar("T")


class Wire(BaseModel):
    """An answer; readers pass over fields that a later release adds."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, populate_by_name=True, from_attributes=True
    )


def example(value: dict[str, Any]) -> ConfigDict:
    """Return the configuration that shows `value` in the documentation of a model."""
    return ConfigDict(json_schema_extra={"examples": [value]})


class Page(Wire, Generic[T]):
    """One page of a list, the newest first."""

    items: list[T]
    next_cursor: str | None = Field(
        default=None, description="Send it as `cursor` for the next page; null on the last one."
    )


class ProblemField(Wire):
    """What is wrong with one field of the request."""

    field: str = Field(description="Path of the field, as in `spec.limits.hard_seconds`.")
    message: str = Field(description="What is wrong and how to cure it.")


class Problem(Wire):
    """An error, as RFC 9457 has it. Programs look at `code`, people at `detail`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:celeriac:problem:not_found",
                    "title": "Not found",
                    "status": 404,
                    "detail": "There is no task summarise.",
                    "code": "not_found",
                    "request_id": "0199f3a2-1c5e-7d30-9a64-0b8f6b1d2c11",
                }
            ]
        }
    )

    type: str = Field(description="`urn:celeriac:problem:` and the code.")
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable across releases; listed in docs/api.md.")
    request_id: str | None = None
    field: str | None = Field(default=None, description="The first field that is wrong.")
    fields: list[ProblemField] | None = None
    details: dict[str, Any] | None = Field(
        default=None, description="Values for programs: limits, names, ids."
    )
