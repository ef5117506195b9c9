"""What pydantic finds wrong, in words that say how to write it."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from celeriac.api.core.problems import faults
from celeriac.domain.agents import AgentSpec
from celeriac.domain.tasks import TaskSpec
from celeriac.wire import ExecutionSummary


@pytest.mark.parametrize(
    ("kind", "value", "field", "words"),
    [
        (AgentSpec, {"runner": "python", "function": "shop.score"}, "function",
         "write module:function, as in shop.agents:score_lead"),
        (AgentSpec, {"runner": "python", "function": "shop:score\n"}, "function",
         "write module:function"),
        (AgentSpec, {"runner": "command", "command": "two words"}, "command",
         "begin with a letter or digit"),
        (AgentSpec, {"runner": "python", "function": "a:b", "environment": ["A-B"]},
         "environment.0", "write a variable's name"),
        (AgentSpec, {"runner": "llm", "model": "a/b", "mcp_servers": [
            {"name": "x", "url": "ftp://x"}]}, "mcp_servers.0.url", "begins with https://"),
        (AgentSpec, {"runner": "command", "command": "look", "confinement": {
            "network": ["https://x"]}}, "confinement.network.0", "no scheme and no path"),
        (TaskSpec, {"queue": "Fast"}, "queue", "begin with a lower-case letter"),
    ],
)  # fmt: skip
def test_a_wrong_form_is_said_in_words(kind: Any, value: Any, field: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(value)
    located = [{**each, "loc": ("body", *each["loc"])} for each in caught.value.errors()]
    (fault,) = faults(located, value)
    assert fault.field.endswith(field)
    assert words in fault.message
    assert "pattern" not in fault.message


def test_a_wrong_id_is_said_in_words() -> None:
    with pytest.raises(ValidationError) as caught:
        ExecutionSummary.model_validate({"id": "notanid"})
    wrong = [each for each in caught.value.errors() if each["loc"] == ("id",)]
    (fault,) = faults([{**each, "loc": ("path", "id")} for each in wrong], None)
    assert fault.message.startswith("is not an id; write it whole, as in ")
    assert "invalid character" not in fault.message


def test_the_json_schema_still_has_the_form() -> None:
    schema = str(TypeAdapter(AgentSpec).json_schema())
    assert r"^[A-Za-z_][\\w.]*:[A-Za-z_]\\w*$" in schema
