"""Agents of the kind `llm`."""

from typing import Literal

from pydantic import Field

from celeriac.domain.agent.base import RunnerName, Strict
from celeriac.domain.agent.tools import ApprovalPolicy, McpServers


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
    mcp_servers: McpServers = ()
    may_ask: bool = False
    """Gives the model a tool to ask a person a question, free or as a form."""
    approvals: ApprovalPolicy = ApprovalPolicy()
    keep_session: bool = False
    """Keeps the conversation as a session that later executions can go on with."""
