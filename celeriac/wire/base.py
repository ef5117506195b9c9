"""The base of all answers, their examples, pages and problems."""

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import Enum
from functools import cache
from typing import Annotated, Any, Generic, Self, TypeVar, get_args, get_origin
from uuid import UUID, uuid5

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.config import JsonDict

from celeriac.domain.usage import dollars

ID = "0199f3a2-1c5e-7d30-9a64-0b8f6b1d2c11"
CELERY_ID = "7c0a2f1e-5d86-4a3b-9c11-2f6f3a9d4e55"
AT = "2026-11-22T09:30:00.125000Z"
LATER = "2026-11-22T09:30:02.640000Z"

Dollars = Annotated[Decimal, PlainSerializer(dollars, return_type=str, when_used="json")]
"""US dollars, in JSON a text such as `0.00` or `1.2045`: no digit is lost."""

Links = dict[str, str | None]
"""Paths by the names of what they lead to; null if it does not exist."""

T = TypeVar("T")


def links(**paths: str | None) -> Any:
    """Return the field of an answer's links: paths, each with one `{name}`, or null.

    `{name}` stands for the value of another field; if that is null, so is the path.
    """
    return Field(alias="_links", examples=[paths])


_PLACEHOLDER = re.compile(r"({(\w+)[^}]*})")


@cache
def _pieces(path: str) -> tuple[str, str, str, str]:
    """Return what is before the placeholder, the placeholder, its field, and what is after it."""
    before, placeholder, field, after = _PLACEHOLDER.split(path)
    return before, placeholder, field, after


def _filled(paths: Links, values: Mapping[str, Any]) -> Links:
    texts: dict[str, str | None] = {}  # many links share a value, whose text takes long to make
    found: Links = {}
    for name, path in paths.items():
        if path is None:
            found[name] = None
            continue
        before, placeholder, field, after = _pieces(path)
        if placeholder not in texts:
            texts[placeholder] = None if values[field] is None else placeholder.format_map(values)
        text = texts[placeholder]
        found[name] = None if text is None else before + text + after
    return found


def _add_example(schema: JsonDict, model: type["Wire"]) -> None:
    schema["examples"] = [model.example()]


class Wire(BaseModel):
    """An answer; readers ignore fields that a later release adds."""

    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        from_attributes=True,
        json_schema_extra=_add_example,
    )

    @classmethod
    def links_of(cls, values: Mapping[str, Any]) -> Links:
        """Return the links of an answer with `values`."""
        paths: Links = cls.model_fields["links"].examples[0]  # type: ignore[index] # by `links`
        return _filled(paths, values)

    @classmethod
    def linked(cls, values: Mapping[str, Any], **others: str | None) -> Self:
        """Return an answer with `values` and its links; `others` are added or replace some."""
        links = cls.links_of(values) | others
        return cls.model_validate({**values, "links": links})

    @classmethod
    def example(cls) -> dict[str, Any]:
        """Return an example for documentation, in JSON values.

        It has each field's own example, or else one of the field's type; null for an optional
        field. A field with a default is left out unless it has an example.
        """
        shown: dict[str, Any] = {}
        for name, field in cls.model_fields.items():
            if field.examples:
                value = field.examples[0]
            elif field.is_required():
                value = _of_type(field.annotation, name)
            else:
                continue
            if field.annotation == Links:
                value = _filled(value, shown)
            shown[field.alias or name] = value
        return shown


def _of_type(kind: Any, name: str) -> Any:
    """Return an example of a type without one of its own; raises KeyError for a text."""
    if get_origin(kind) is list:
        return [_of_type(get_args(kind)[0], name)]
    if type(None) in get_args(kind):
        return None
    if isinstance(kind, type) and issubclass(kind, Wire):
        return kind.example()
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next(iter(kind)).value
    if kind is UUID:
        return ID if name == "id" else str(uuid5(UUID(ID), name))
    return _EXAMPLES[kind]


_EXAMPLES: dict[Any, Any] = {
    bool: False,
    datetime: AT,
    Decimal: "0.0122",
    dict[str, Any]: {},
    float: 12.5,
    int: 3,
    Any: None,
}


class Page(Wire, Generic[T]):
    """One page of a list, the newest first."""

    items: list[T]
    next_cursor: str | None = Field(
        default=None, description="Send it as `cursor` for the next page; null on the last one."
    )


class ProblemField(Wire):
    """A fault of one field of the request."""

    field: str = Field(
        description="Path of the field, such as `spec.limits.hard_seconds`.",
        examples=["spec.limits.hard_seconds"],
    )
    message: str = Field(
        description="What is wrong and how to cure it.", examples=["must be greater than 0"]
    )


class Problem(Wire):
    """An error (RFC 9457). Programs look at `code`, people at `detail`."""

    type: str = Field(
        description="`urn:celeriac:problem:` and the code.",
        examples=["urn:celeriac:problem:not_found"],
    )
    title: str = Field(examples=["Not found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["There is no task summarise."])
    code: str = Field(
        description="Stable across releases; listed in docs/api.md.", examples=["not_found"]
    )
    request_id: str | None = Field(default=None, examples=[ID])
    field: str | None = Field(default=None, description="The first field that is wrong.")
    fields: list[ProblemField] | None = None
    details: dict[str, Any] | None = Field(
        default=None, description="Values for programs: limits, names, ids."
    )
