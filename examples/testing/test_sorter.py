"""Tests of an agent without a model, a key or a server; `pytest examples/testing` runs them."""

from pathlib import Path

import pytest

from celeriac.testing import AgentRun, CassetteMismatchError, run_agent

HERE = Path(__file__).parent


def sort(text: str, cassette: str) -> AgentRun:
    """Run the task on a cassette of `cassettes/`."""
    return run_agent(
        HERE / "agent.json", HERE / "task.json", {"text": text}, HERE / "cassettes" / cassette
    )


def test_a_double_charge_is_billing() -> None:
    """The answer that the model gave when it was recorded still fits the task."""
    run = sort("You charged my card twice!", "charged-twice.jsonl")
    assert run.result["category"] == "billing"
    assert len(run.calls) == 1


def test_another_prompt_needs_another_recording() -> None:
    """A change of prompt, instructions, model or schema shows up here first."""
    with pytest.raises(CassetteMismatchError, match="charged my card"):
        sort("You charged my card three times!", "charged-twice.jsonl")
