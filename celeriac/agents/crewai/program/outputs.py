"""Outputs with a JSON schema: the instruction for the agent, and the check as a guardrail."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from crewai import TaskOutput
from jsonschema import Draft202012Validator

from .failures import CrewStopError, clip

REPAIRS = 1
"""How often an agent may correct its output before the crew fails."""

_SHOWN = 2_000
_MAX_FAULTS = 10


def instruction(schema: Mapping[str, Any]) -> str:
    """Return what is added to a task's expected output."""
    text = json.dumps(schema, ensure_ascii=False)
    return f"\n\nThe final answer is JSON alone, without any other text, that fits: {text}"


def guardrail(task: str, schema: Mapping[str, Any]) -> Callable[[TaskOutput], tuple[bool, Any]]:
    """Return the check of a task's output; an output that doesn't fit is sent back once.

    The second misfit ends the crew with CrewStopError.
    """
    validator = Draft202012Validator(schema)
    tries = 0

    def check(output: TaskOutput) -> tuple[bool, Any]:
        nonlocal tries
        tries += 1
        try:
            value = json_of(output.raw)
            faults = [fault.message for fault in validator.iter_errors(value)]
        except ValueError as error:
            value, faults = None, [f"it is no JSON: {error}"]
        if not faults:
            return True, json.dumps(value, ensure_ascii=False)
        said = "; ".join(faults[:_MAX_FAULTS])
        if tries > REPAIRS:
            raise CrewStopError(
                "output_invalid",
                f"The output of the task {task!r} doesn't fit its schema: {said}.",
                retryable=True,
                answer=clip(output.raw, _SHOWN),
            )
        return False, f"The answer must be JSON that fits the schema, but: {said}"

    return check


def json_of(text: str) -> Any:
    """Return the JSON value in an answer, which may be in a code fence or within text.

    Raises ValueError where there is none.
    """
    bare = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    try:
        return json.loads(bare)
    except ValueError:
        begin = min((at for mark in "{[" if (at := bare.find(mark)) >= 0), default=-1)
        if begin < 0:
            raise
        value, _ = json.JSONDecoder().raw_decode(bare[begin:])
        return value
