"""Run agents and workflows in tests without servers and without models (docs/testing-agents.md).

from celeriac.testing import run_agent

def test_a_complaint_is_sorted():
    run = run_agent("agent.json", "task.json", {"text": "Charged twice!"}, "charged.jsonl")
    assert run.result["category"] == "billing"
"""

from celeriac.domain.approvals import Answer, Question
from celeriac.domain.errors import CassetteMismatchError, OutputInvalidError
from celeriac.logs import use_standard_logging
from celeriac.testing.running import AgentRun, run_agent, run_function, run_task
from celeriac.testing.workflow_runs import StepError, StepOutcome, WorkflowRun
from celeriac.testing.workflows import run_workflow

__all__ = [
    "AgentRun",
    "Answer",
    "CassetteMismatchError",
    "OutputInvalidError",
    "Question",
    "StepError",
    "StepOutcome",
    "WorkflowRun",
    "run_agent",
    "run_function",
    "run_task",
    "run_workflow",
]

use_standard_logging()
