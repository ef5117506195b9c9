"""The API's description of itself is complete."""

import gc
import re
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from celeriac import wire
from celeriac.api.app import _routed, describe
from celeriac.kit.json_types import dumps

SCHEMA = describe()
OPERATIONS = {
    operation["operationId"]: operation
    for path in SCHEMA["paths"].values()
    for operation in path.values()
}
SIGNED = {"show_linked_approval", "answer_linked_approval"}
OPEN = {"get_liveness", "get_readiness", "get_celery_health"}
TOKEN = {"accept_invitation", "call_hook"}
"""The request has a token, or a signature, of its own."""


def _is_answer(found: object) -> bool:
    return (
        isinstance(found, type)
        and issubclass(found, wire.Wire)
        and found not in {wire.Wire, wire.Page}
    )


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = SCHEMA["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def _shows_an_example(schema: dict[str, Any]) -> bool:
    schema = _resolved(schema)
    if "examples" in schema:
        return True
    inner = [*schema.get("anyOf", []), schema.get("properties", {}).get("items", {}).get("items")]
    return any(_shows_an_example(part) for part in inner if part and part.get("type") != "null")


def _json_schemas(operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for part in (operation.get("requestBody", {}), *operation["responses"].values()):
        for media, content in part.get("content", {}).items():
            if media.endswith("json"):
                yield content["schema"]


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_each_operation_is_described_with_examples(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation["summary"]
    assert operation["description"].endswith((".", "…"))
    assert operation["tags"]
    assert all(_shows_an_example(schema) for schema in _json_schemas(operation))
    for parameter in operation.get("parameters", []):
        assert parameter.get("description"), f"{parameter['name']} is not described"
    for status, response in operation["responses"].items():
        assert response["description"], status
        if status >= "400" and name not in OPEN | SIGNED:
            assert list(response["content"]) == ["application/problem+json"], status


def test_all_but_health_links_invitations_and_hooks_need_a_key() -> None:
    keyless = {name for name, found in OPERATIONS.items() if "security" not in found}
    assert keyless == OPEN | SIGNED | TOKEN


ANSWERS = {name: found for name, found in vars(wire).items() if _is_answer(found)}


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_the_examples_are_answers(name: str) -> None:
    answer = ANSWERS[name]
    example = answer.example()
    told = answer.model_validate_json(dumps(example))
    assert told.model_dump(mode="json", by_alias=True, exclude_unset=True) == example


def test_links_of_examples_lead_to_paths_of_the_api() -> None:
    known = [re.sub(r"\{\w+\}", ".+", path) for path in SCHEMA["paths"]]
    known.append("/api/v1/admin/celery-tasks/.+")  # another name, which the description lacks
    for name, answer in ANSWERS.items():
        for link in (answer.example().get("_links") or {}).values():
            path = (link or "/api/v1/tasks").partition("?")[0]
            assert any(re.fullmatch(each, path) for each in known), f"{name}: {link}"


def _named(node: Any, place: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield every name of the document with its value and place."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield name, f"{place}/{name}", value
            yield from _named(value, f"{place}/{name}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _named(value, f"{place}/{number}")


MONEY = re.compile(r"(?:^|_)(?:cost|amount|price|dollars)s?(?:_|$)")
AMOUNT = re.compile(r"\d+\.\d{2,}")


def test_money_is_text_with_two_decimals_at_least_wherever_it_is_shown() -> None:
    places = [each for each in _named(SCHEMA) if MONEY.search(each[0])]
    shown = [(place, value) for _, place, value in places if isinstance(value, dict)]
    examples_of = [(place, value) for _, place, value in places if not isinstance(value, dict)]
    assert len(shown) > 10
    assert len(examples_of) > 10
    for place, schema in shown:
        kinds = {each.get("type") for each in [schema, *schema.get("anyOf", [])]}
        # who sends an amount may write a number; no answer has one
        sent = re.search(r"/(?:NewBudget|[^/]*-Input)/", place)
        assert "string" in kinds, place
        assert sent or not kinds & {"number", "integer"}, place
    for place, value in examples_of:
        assert value is None or (isinstance(value, str) and AMOUNT.fullmatch(value)), place


def test_an_application_that_nobody_uses_is_freed() -> None:
    """FastAPI keeps endpoints in caches: one that closes over the application keeps it for ever.

    A process that has built a thousand applications stops for seconds at each garbage collection.
    """
    app = weakref.ref(_routed(None))
    gc.collect()
    assert app() is None
