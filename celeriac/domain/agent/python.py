"""Agents of the kind `python`."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from celeriac.domain.agent.base import RunnerName, Strict, VariableNames
from celeriac.domain.agent.tools import ApprovalPolicy

FunctionPath = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", max_length=300),
]
"""`package.module:function`."""


class PythonAgent(Strict):
    """A user's function: a coroutine runs in the worker, a plain one in a child process."""

    runner: Literal[RunnerName.PYTHON] = RunnerName.PYTHON
    function: FunctionPath = Field(examples=["shop.agents:score_lead"])
    environment: VariableNames = ()
    """Names of the worker's environment variables that a child process may see."""
    approvals: ApprovalPolicy = ApprovalPolicy()
