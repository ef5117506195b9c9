"""What the scripted model server answers to crews, by the first word of the task's description."""

import json
import re

from tests.support.model_scenes import KEY
from tests.support.model_server import Exchange, Scene, tokens

SCENES: dict[str, Scene] = {}

TICKET = {"category": "billing", "summary": "Charged twice."}

_TASK = re.compile(r"Current Task: (\w+)")
_CONTEXT = re.compile(r"This is the context you're working with:\n(.*?)\n\n", re.DOTALL)
_DELEGATE = "delegate_work_to_coworker"


def play(exchange: Exchange) -> None:
    """Play the scene of the task that the crew's agent was given."""
    found = _TASK.search(_first(exchange))
    assert found is not None, f"no task in {_first(exchange)!r}"
    SCENES[found[1]](exchange)


def _scene(function: Scene) -> Scene:
    SCENES[function.__name__] = function
    return function


def _first(exchange: Exchange) -> str:
    messages = exchange.received.body["messages"]
    return str(next(each["content"] for each in messages if each["role"] == "user"))


@_scene
def plan(exchange: Exchange) -> None:
    exchange.complete("Begin, then end.", usage=tokens(100, 10, cached=40))


@_scene
def draft(exchange: Exchange) -> None:
    """Repeat the context that CrewAI passed on."""
    found = _CONTEXT.search(_first(exchange))
    exchange.complete(f"By the plan: {found[1] if found else 'none'}", usage=tokens(200, 20))


@_scene
def manage(exchange: Exchange) -> None:
    """Delegate to the first coworker, and answer with what came back."""
    answered = exchange.received.answered
    if answered:
        exchange.complete(f"It came back: {answered[-1]}", usage=tokens(30, 3))
        return
    order = {"task": "plan it", "context": "All of it.", "coworker": "Planner"}
    exchange.complete(None, calls=[(_DELEGATE, order)], usage=tokens(20, 2))


@_scene
def label(exchange: Exchange) -> None:
    """Label the execution, wrongly once, and answer with what came back."""
    answered = exchange.received.answered
    if len(answered) == 2:
        exchange.complete("; ".join(answered))
        return
    labels = {"9": "x"} if answered else {"language": "en"}
    exchange.complete(None, calls=[("label_execution", {"labels": labels})])


@_scene
def structured(exchange: Exchange) -> None:
    """Answer with prose, and once that was refused with JSON in a fence."""
    told = json.dumps(exchange.received.body["messages"])
    fenced = f"```json\n{json.dumps(TICKET)}\n```"
    exchange.complete(fenced if "is no JSON" in told else "A billing matter, I think.")


@_scene
def toolbox(exchange: Exchange) -> None:
    """Use the tool that is offered, and answer with what it said."""
    answered = exchange.received.answered
    if answered:
        exchange.complete(f"The tool said: {answered[-1]}")
        return
    tools = [each["function"] for each in exchange.received.body["tools"]]
    # CrewAI's names hold the command of the server, and end in a hash if that is long
    (name,) = [each["name"] for each in tools if each["description"] == "Add two numbers."]
    exchange.complete(None, calls=[(name, {"a": 2, "b": 3})])


@_scene
def unauthorized(exchange: Exchange) -> None:
    exchange.error(401, {"message": f"Incorrect API key: {KEY}", "code": "invalid_api_key"})


@_scene
def cut(exchange: Exchange) -> None:
    exchange.complete("Once upon a", reason="max_tokens")


@_scene
def numbered(exchange: Exchange) -> None:
    """Use the tool that is offered, by a call without an id and with an object as arguments."""
    answered = exchange.received.answered
    if answered:
        exchange.complete(f"The tool said: {answered[-1]}")
        return
    (name,) = [
        each["function"]["name"]
        for each in exchange.received.body["tools"]
        if each["function"]["name"].endswith("add")
    ]
    call = {"function": {"name": name, "arguments": {"a": 2, "b": 3}}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    exchange.answer_with({"choices": [{"message": message, "finish_reason": "tool_use"}]})


@_scene
def silent(exchange: Exchange) -> None:
    exchange.wait_for_leave()


CREW_SCENES: dict[str, Scene] = {"Current": play}
"""CrewAI's prompts begin with this word."""
