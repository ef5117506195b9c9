"""The schema of a function's variables."""

import datetime as dt
import enum
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from celeriac.agents.python.variables import variables_schema
from celeriac.domain.errors import VariablesInvalidError
from celeriac.domain.schemas import check_schema
from celeriac.services.catalog.schemas import check_variables


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Lead(BaseModel):
    name: str
    size: int = Field(default=1, ge=1)


@dataclass
class Place:
    city: str
    lead: Lead


def other_lead() -> type[BaseModel]:
    """Return another model with the name of one above."""

    class Lead(BaseModel):
        country: str

    return Lead


OtherLead = other_lead()


async def score(  # noqa: PLR0917 - as users write them
    ctx: Any,
    company: str,
    size: int = 1,
    tags: list[str] | None = None,
    mode: Literal["fast", "slow"] = "fast",
    colour: Colour = Colour.RED,
    rating: Annotated[int, Field(ge=0, le=5)] = 0,
) -> None:
    """All of these have a schema."""


def test_parameters_become_properties() -> None:
    schema = variables_schema(score)
    assert schema["properties"]["company"] == {"type": "string"}
    assert schema["properties"]["size"] == {"type": "integer", "default": 1}
    assert schema["properties"]["mode"]["enum"] == ["fast", "slow"]
    assert schema["properties"]["colour"]["default"] == "red"
    assert schema["properties"]["rating"] == {
        "type": "integer", "minimum": 0, "maximum": 5, "default": 0,
    }  # fmt: skip
    assert schema["required"] == ["company"]
    assert schema["additionalProperties"] is False
    assert "ctx" not in schema["properties"]


def nested(place: Place, leads: list[Lead], when: dt.date) -> None: ...
def untyped(a, b=2, **more): ...  # type: ignore[no-untyped-def]
def nothing(ctx: Any) -> None: ...
def clash(one: list[Lead], other: list[OtherLead]) -> None: ...  # type: ignore[valid-type]
def odd(a: Callable[[], int], b: "NoSuchType", c: Decimal, d: object, e: int = print) -> None: ...  # type: ignore[assignment, name-defined]  # noqa: F821
def keyword(*, a: int, b: str = "") -> None: ...


@pytest.mark.parametrize(
    ("function", "fits", "refused"),
    [
        (score, {"company": "a", "size": 2, "tags": ["x"], "colour": "blue"}, {"company": 1}),
        (score, {"company": "a"}, {}),
        (score, {"company": "a", "tags": None}, {"company": "a", "sise": 1}),
        (
            nested,
            {"place": {"city": "a", "lead": {"name": "b"}}, "leads": [], "when": "2026-11-22"},
            {"place": {"city": "a", "lead": {}}, "leads": [], "when": "2026-11-22"},
        ),
        (untyped, {"a": [1], "z": 3}, {"b": 1}),
        (nothing, {}, {"a": 1}),
        (clash, {"one": [{"name": "a"}], "other": 1}, {"one": [{"size": 1}], "other": 1}),
        (odd, {"a": 1, "b": 2, "c": "1.5", "d": {}}, {"a": 1}),
        (keyword, {"a": 1}, {"a": "1"}),
    ],
)
def test_the_schema_is_one_that_tasks_take_and_holds_variables_to_the_function(
    function: Callable[..., Any], fits: dict[str, Any], refused: dict[str, Any]
) -> None:
    schema = variables_schema(function)
    check_schema(schema, field="variables_schema")
    check_variables(schema, fits)
    with pytest.raises(VariablesInvalidError):
        check_variables(schema, refused)


def test_a_default_that_is_no_json_is_left_out() -> None:
    assert variables_schema(odd)["properties"]["e"] == {"type": "integer"}
