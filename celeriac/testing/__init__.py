"""Run agents in tests without servers and without models (docs/testing-agents.md).

from celeriac.testing import run_agent

def test_a_complaint_is_sorted():
    run = run_agent("agent.json", "task.json", {"text": "Charged twice!"}, "charged.jsonl")
    assert run.result["category"] == "billing"
"""

from celeriac.domain.approvals import Answer, Question
from celeriac.domain.errors import CassetteMismatchError, OutputInvalidError
from celeriac.testing.running import AgentRun, run_agent, run_function, run_task

__all__ = [
    "AgentRun",
    "Answer",
    "CassetteMismatchError",
    "OutputInvalidError",
    "Question",
    "run_agent",
    "run_function",
    "run_task",
]
