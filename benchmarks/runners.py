"""An agent of each runner that works until it is stopped, and the models that it waits for."""

import importlib.util
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from celeriac.agents.crewai.venv import CrewVenv, State
from celeriac.domain.agents import (
    AgentSpec,
    ClaudeAgent,
    CommandAgent,
    CrewaiAgent,
    LlmAgent,
    PythonAgent,
)
from celeriac.domain.crews import CrewGraph
from celeriac.kit.json_types import dumps
from tests.support import anthropic_server, model_server

_CREW_VENV = CrewVenv(Path(__file__).parent.parent / ".venv-crewai")
_SLEEP = "sleep 600"
_COMMAND = f"""{_SLEEP} & echo '{{"type": "progress", "done": 0}}'; wait"""
_DEAF = f"""trap '' TERM; {_SLEEP} & echo '{{"type": "progress", "done": 0}}'; wait"""
_CREW = {
    "agents": [{"id": "ada", "role": "Writer", "goal": "Write.", "model": "slow/model"}],
    "tasks": [
        {"id": "write", "description": "Write.", "expected_output": "A text.", "agent": "ada"}
    ],
}


@dataclass(frozen=True, slots=True)
class Models:
    """Scripted servers on the loopback whose answers begin and never end."""

    chat: model_server.ModelServer
    messages: anthropic_server.AnthropicServer

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        """Serve while the block runs."""
        chat = model_server.ModelServer(defaultdict(lambda: _begin_to_answer))
        messages = anthropic_server.AnthropicServer(defaultdict(lambda: _have_bash_sleep))
        with chat.running(), messages.running():
            yield cls(chat, messages)


def _begin_to_answer(exchange: model_server.Exchange) -> None:
    if exchange.received.body.get("stream"):
        exchange.begin()
        exchange.say("Well")
    exchange.wait_for_leave()


def _have_bash_sleep(exchange: anthropic_server.Exchange) -> None:
    if exchange.received.results:
        exchange.begin()
        exchange.wait_for_leave()
    else:
        exchange.call(("Bash", {"command": _SLEEP}))


def _never() -> int:
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """An agent that works until it is stopped, and how to see that it works."""

    name: str
    spec: AgentSpec
    model: bool = False
    """Whether it works once its model was called; by default once it reports progress."""
    asked: Callable[[], int] = _never
    """Number of calls of its model so far."""
    program: str | None = None
    """Name of a program below the worker that shows that it works."""
    heavy: bool = False
    """Takes seconds to start or to end."""


def kinds(models: Models) -> list[Kind]:
    """Return an agent of each runner."""
    chat = models.chat.received.__len__
    return [
        Kind(name="llm", spec=LlmAgent(model="slow/model"), model=True, asked=chat),
        Kind(name="python coroutine", spec=PythonAgent(function="benchmarks.agents:work")),
        Kind(name="python function", spec=PythonAgent(function="benchmarks.agents:plain_work")),
        Kind(name="command", spec=CommandAgent(command="work")),
        Kind(name="command deaf to SIGTERM", spec=CommandAgent(command="deaf"), heavy=True),
        Kind(
            name="crewai",
            spec=CrewaiAgent(crew=CrewGraph.model_validate(_CREW)),
            model=True,
            asked=chat,
            heavy=True,
        ),
        Kind(
            name="claude",
            spec=ClaudeAgent(tools=("Bash",), allowed_tools=("Bash",)),
            program="sleep",
            heavy=True,
        ),
    ]


def missing(kind: Kind) -> str | None:
    """Return why agents of a kind can't run here, or None where they can."""
    if isinstance(kind.spec, CrewaiAgent) and _CREW_VENV.state() is not State.READY:
        return "CrewAI's environment is not installed; `make crews` builds it"
    if isinstance(kind.spec, ClaudeAgent) and importlib.util.find_spec("claude_agent_sdk") is None:
        return "the Claude Agent SDK is not installed"
    return None


def worker_environment(models: Models) -> Mapping[str, str]:
    """Return the settings of a worker for these agents."""
    return {
        "CELERIAC_PROVIDERS": dumps({"slow": {"base_url": models.chat.base_url}}),
        "CELERIAC_COMMANDS": dumps({"work": ["sh", "-c", _COMMAND], "deaf": ["sh", "-c", _DEAF]}),
        "CELERIAC_CREWAI_VENV": str(_CREW_VENV.root),
        "ANTHROPIC_BASE_URL": models.messages.base_url,
        "ANTHROPIC_API_KEY": "none",
    }
