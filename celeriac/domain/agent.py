"""Agents: who does the work. A specification is immutable; a change makes a new version."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from celeriac.kit.ids import parse_uuid

Word = Annotated[
    str,
    StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]*$", min_length=1, max_length=100),
]
"""A text that is safe in URLs, file names and log lines."""


def _no_id(name: str) -> str:
    if parse_uuid(name) is not None:
        raise ValueError("must not look like an id; add a word to it")
    return name


Name = Annotated[Word, AfterValidator(_no_id)]
"""A name that people give; where a name or an id can stand, it is never taken for an id."""

FunctionPath = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", max_length=300),
]
"""`package.module:function`."""


class RunnerName(StrEnum):
    """The kinds of agents that this release can drive."""

    LLM = "llm"
    PYTHON = "python"


class Strict(BaseModel):
    """A frozen model that refuses unknown fields and values of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class LlmAgent(Strict):
    """A language model behind an OpenAI-compatible endpoint."""

    runner: Literal[RunnerName.LLM] = RunnerName.LLM
    model: str = Field(
        min_length=1, max_length=200, examples=["local/smollm2", "openai/gpt-5-mini"]
    )
    """`provider/model`; the provider's address and key come from the settings."""
    instructions: str = Field(default="", max_length=100_000)
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_output_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    max_model_calls: int = Field(default=20, ge=1, le=1_000)
    """Ends runs that go in circles; counts requests to the model, repairs of output included."""


class PythonAgent(Strict):
    """A user's function: a coroutine runs on the worker's loop, a plain one in a child process."""

    runner: Literal[RunnerName.PYTHON] = RunnerName.PYTHON
    function: FunctionPath = Field(examples=["shop.agents:score_lead"])
    environment: tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*$")], ...] = Field(
        default=(), strict=False
    )
    """Names of the worker's environment variables that a child process may see."""


AgentSpec = Annotated[LlmAgent | PythonAgent, Field(discriminator="runner")]
"""What an agent is; the `runner` field tells which kind."""
