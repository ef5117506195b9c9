"""Agents of the kind `command`."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from celeriac.domain.agent.base import RunnerName, Strict, VariableNames, Word
from celeriac.domain.agent.tools import ApprovalPolicy


class CommandAgent(Strict):
    """Any program that speaks our JSON lines on stdio, as an administrator allowed it."""

    runner: Literal[RunnerName.COMMAND] = RunnerName.COMMAND
    command: Word = Field(examples=["word-count"])
    """The name of a program in the workers' `CELERIAC_COMMANDS`."""
    arguments: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=10_000)], ...],
        Field(strict=False, max_length=100),
    ] = ()
    """Put behind those that the administrator set."""
    environment: VariableNames = ()
    """Names of the worker's environment variables that the program may see."""
    approvals: ApprovalPolicy = ApprovalPolicy()
