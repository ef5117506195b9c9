"""Specifications of agents, one class for each runner, and of MCP servers.

They are immutable; a change creates a new version.
"""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from celeriac.domain.approvals import OnExpiry
from celeriac.domain.base import Shape, Strict, VariableNames, Word
from celeriac.domain.confinement import UNASKED, AgentConfinement
from celeriac.domain.crews import CrewGraph
from celeriac.domain.secrets.model import (
    HTTP_PORT,
    HTTPS_PORT,
    PLACE,
    VARIABLE_PATTERN,
    VARIABLE_WORDS,
)
from celeriac.kit.destinations import literal_address, read_host, read_port, split_port


class RunnerName(StrEnum):
    """The runners of this release."""

    LLM = "llm"
    PYTHON = "python"
    COMMAND = "command"
    CLAUDE = "claude"
    CREWAI = "crewai"


ToolPattern = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    Shape(
        r"[A-Za-z0-9_.*?-]+",
        "write a tool's name, or a pattern of names with '*' and '?'",
    ),
]
"""A tool's name, or a pattern of names with `*` and `?`."""

ServerUrl = Annotated[
    str,
    StringConstraints(max_length=2_000),
    Shape(r"https?://.*", "write an address that begins with https:// or http://"),
]

ToolPatterns = Annotated[tuple[ToolPattern, ...], Field(strict=False, max_length=200)]


class McpServer(Strict):
    """An MCP server that an agent may use.

    Without a `url` the name is that of a server that an administrator configured for the workers;
    programs over stdio can only be configured there. With a `url` the server is reached over
    streamable HTTP, and the address is checked by the outbound guard.
    """

    name: Word
    url: ServerUrl | None = None
    allowed_tools: ToolPatterns | None = None
    """Tools that the agent sees; None: all tools of the server."""
    approve_tools: ToolPatterns = ()
    """Tools that wait for a person's approval before each call."""
    timeout_seconds: float = Field(default=60.0, gt=0, le=3_600)
    """Time limit of one call."""


McpServers = Annotated[tuple[McpServer, ...], Field(strict=False, max_length=20)]


class ApprovalPolicy(Strict):
    """How long an agent's questions stay open, and what happens when nobody answers."""

    expires_seconds: float = Field(default=86_400.0, ge=1, le=31_536_000)
    on_expiry: OnExpiry = Field(default=OnExpiry.DENY, strict=False)


_NO_CREDENTIALS = frozenset(
    "host connection content-length transfer-encoding te trailer upgrade keep-alive expect "
    "proxy-authorization proxy-authenticate proxy-connection".split()
)


def _exact_host(text: str) -> str:
    host, port = split_port(text)
    host = read_host(host)
    if literal_address(host) is not None:
        raise ValueError("must be the name of a host, not an address")
    return f"{host}:{read_port(port)}" if port else host


class SecretGrant(Strict):
    """A secret of the workspace that the agent may use.

    With a `variable` its processes get the value as an environment variable. With a `host` they
    don't get it: the proxy of the attempt adds it as a header to plain requests to that host, which
    it sends on with TLS.
    """

    name: Word = Field(examples=["github"])
    """The secret's."""
    variable: (
        Annotated[str, StringConstraints(max_length=100), Shape(VARIABLE_PATTERN, VARIABLE_WORDS)]
        | None
    ) = Field(default=None, examples=["GITHUB_TOKEN"])
    host: Annotated[str, StringConstraints(max_length=300), AfterValidator(_exact_host)] | None = (
        Field(default=None, examples=[None])
    )
    """A host's name, such as `api.github.com`; with a port if it is not 443."""
    header: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,100}$")] = "Authorization"
    template: Annotated[str, StringConstraints(pattern=r"^[ -~]*$", max_length=200)] = (
        "Bearer {secret}"
    )
    """The header's value, with `{secret}` where the value stands."""
    user: Annotated[str, StringConstraints(pattern=r"^[!-9;-~]+$", max_length=100)] | None = None
    """Sends the secret as the password of this user instead (Basic), as git does."""

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if (self.variable is None) == (self.host is None):
            raise ValueError("give it a variable or a host, and not both")
        if self.template.count(PLACE) != 1:
            raise ValueError("template must have {secret} once")
        if self.header.lower() in _NO_CREDENTIALS:
            raise ValueError(f"the header {self.header} belongs to the connection; name another")
        return self

    @property
    def endpoint(self) -> tuple[str, int]:
        """The host and the port of the plain requests that get the header."""
        host, port = split_port(self.host or "")
        return host, HTTP_PORT if int(port or HTTPS_PORT) == HTTPS_PORT else int(port)


SecretGrants = Annotated[tuple[SecretGrant, ...], Field(strict=False, max_length=20)]
"""Secrets that an agent is given. Only admins of the workspace create or change such agents."""


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
    """Limits loops; counts requests to the model, including repairs of its output."""
    mcp_servers: McpServers = ()
    secrets: SecretGrants = ()
    """For its MCP servers over stdio."""
    may_ask: bool = False
    """Gives the model a tool to ask a person a question, free or as a form."""
    may_label: bool = False
    """Gives the model a tool that labels its execution."""
    approvals: ApprovalPolicy = ApprovalPolicy()
    keep_session: bool = False
    """Keeps the conversation as a session that later executions can continue."""
    confinement: AgentConfinement = UNASKED
    """Of its MCP servers over stdio."""


ToolNames = Annotated[
    tuple[
        Annotated[
            str,
            StringConstraints(max_length=200),
            Shape(
                r"[A-Za-z][A-Za-z0-9_]*",
                "write a tool's name: letters, digits and '_', a letter first",
            ),
        ],
        ...,
    ],
    Field(strict=False, max_length=200),
]
"""Exact names of tools, without patterns."""


class Permission(StrEnum):
    """What happens to a tool call that no rule of the agent allows or denies."""

    ASK = "ask"
    """A person is asked."""
    DENY = "deny"
    """The call is denied, with a message to the agent."""


class ClaudeAgent(Strict):
    """Claude Code, driven through the Claude Agent SDK, in a working directory of its session."""

    runner: Literal[RunnerName.CLAUDE] = RunnerName.CLAUDE
    model: str | None = Field(default=None, min_length=1, max_length=200)
    """None: the default of Claude Code."""
    instructions: str = Field(default="", max_length=100_000)
    """Added to Claude Code's own system prompt."""
    tools: ToolNames = ("Read", "Write", "Edit", "Glob", "Grep", "Bash")
    """The built-in tools that the agent has."""
    allowed_tools: ToolPatterns = ("Read", "Glob", "Grep")
    """Tools, built in or `mcp__server__tool`, that run without approval."""
    denied_tools: ToolPatterns = ()
    """Tools that never run, even if another rule allows them."""
    permission: Permission = Field(default=Permission.DENY, strict=False)
    max_turns: int | None = Field(default=None, ge=1, le=1_000)
    idle_seconds: float = Field(default=300.0, ge=1, le=86_400)
    """Claude Code is stopped after this time without output, unless a tool runs."""
    mcp_servers: McpServers = ()
    environment: VariableNames = ()
    """Names of the worker's environment variables that its tools may see."""
    secrets: SecretGrants = ()
    may_label: bool = False
    """Gives it a tool that labels its execution."""
    approvals: ApprovalPolicy = ApprovalPolicy()
    confinement: AgentConfinement = UNASKED


class CrewaiAgent(Strict):
    """A crew, run by CrewAI in a child process, in CrewAI's own virtual environment."""

    runner: Literal[RunnerName.CREWAI] = RunnerName.CREWAI
    crew: CrewGraph
    max_model_calls: int = Field(default=200, ge=1, le=10_000)
    """Limits loops; counts the requests of all its agents."""
    secrets: SecretGrants = ()
    may_label: bool = False
    """Gives each of its agents a tool that labels its execution."""
    approvals: ApprovalPolicy = ApprovalPolicy()
    confinement: AgentConfinement = UNASKED


FunctionPath = Annotated[
    str,
    StringConstraints(max_length=300),
    Shape(
        r"[A-Za-z_][\w.]*:[A-Za-z_]\w*",
        "write module:function, as in shop.agents:score_lead",
    ),
]
"""`package.module:function`."""


class PythonAgent(Strict):
    """A user's function: a coroutine runs in the worker, a plain one in a child process."""

    runner: Literal[RunnerName.PYTHON] = RunnerName.PYTHON
    function: FunctionPath = Field(examples=["shop.agents:score_lead"])
    environment: VariableNames = ()
    """Names of the worker's environment variables that a child process may see."""
    secrets: SecretGrants = ()
    approvals: ApprovalPolicy = ApprovalPolicy()
    durable: bool = False
    """Where it must wait, the attempt ends, and another one continues with its steps answered."""
    confinement: AgentConfinement = UNASKED
    """Of a plain function; a coroutine runs in the worker and can't be confined."""


class CommandAgent(Strict):
    """A program that an administrator allowed, which uses JSON lines on stdio."""

    runner: Literal[RunnerName.COMMAND] = RunnerName.COMMAND
    command: Word = Field(examples=["word-count"])
    """The name of a program in the workers' `CELERIAC_COMMANDS`."""
    arguments: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=10_000)], ...],
        Field(strict=False, max_length=100),
    ] = ()
    """Appended to the arguments that the administrator set."""
    environment: VariableNames = ()
    """Names of the worker's environment variables that the program may see."""
    secrets: SecretGrants = ()
    approvals: ApprovalPolicy = ApprovalPolicy()
    durable: bool = False
    """Where it must wait, it is asked to end, and is started again when it can continue."""
    confinement: AgentConfinement = UNASKED


AgentSpec = Annotated[
    LlmAgent | PythonAgent | CommandAgent | ClaudeAgent | CrewaiAgent, Field(discriminator="runner")
]
"""The specification of an agent; the field `runner` selects the kind."""
