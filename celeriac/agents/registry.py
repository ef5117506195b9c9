"""The runners of a worker. A runner's module is imported when its first agent is run."""

import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.gateway.loopback import ModelAccess
from celeriac.agents.mcp.servers import ToolServers
from celeriac.agents.models import AnthropicEndpoint, Prices, Providers, price_by_name
from celeriac.domain.agents import AgentSpec, RunnerName
from celeriac.domain.errors import AgentMisconfiguredError
from celeriac.kit.loop import LoopThread
from celeriac.services.ports import Job, Runner

if TYPE_CHECKING:
    from celeriac.agents.repository.runner import Repositories

_CLOSE_SECONDS = 5.0


@dataclass(kw_only=True, eq=False, repr=False)
class Registry:
    """Creates each runner once per process. Safe to share between threads.

    `agent_modules` are the packages whose functions agents may use, `commands` the programs;
    `crewai_venv` is the environment of CrewAI. Claude Code calls `anthropic` and keeps its sessions
    in `sessions_root`. `confinement` holds the environment and the user of child processes,
    `repositories` what makes checkouts.
    """

    providers: Providers
    prices: Prices
    agent_modules: Sequence[str]
    commands: Mapping[str, Sequence[str]]
    tool_servers: ToolServers
    crewai_venv: Path
    anthropic: AnthropicEndpoint
    sessions_root: Path
    confinement: Confinement
    repositories: "Repositories | None" = None
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _runners: dict[RunnerName, Runner] = field(default_factory=dict, init=False)
    _closers: list[Callable[[], Awaitable[None]]] = field(default_factory=list, init=False)

    def get(self, agent: AgentSpec) -> Runner:
        """Return the runner of `agent`; creating it may take a second or two."""
        return self._of(agent.runner)

    def in_checkout(self, runner: Runner) -> Runner:
        """Return a runner that does what `runner` does in the checkout of the job's repository.

        Raises AgentMisconfiguredError where there are no repositories.
        """
        from celeriac.agents.repository.runner import RepositoryRunner

        if self.repositories is None:
            raise AgentMisconfiguredError(
                "There are no repositories here; run the task without one.", field="repository"
            )
        return RepositoryRunner(runner, self.repositories, continues=continues)

    def preload(self) -> None:
        """Import what the most used runners need, in a process that forks its workers afterwards.

        Starts no thread and opens nothing, so that it is safe to fork.
        """
        import celeriac.agents.llm.runner
        import celeriac.agents.python.runner  # noqa: F401

        self.prices.warm()

    def warm(self) -> threading.Thread:
        """Create the most used runners in the background, before their first executions."""
        names = (RunnerName.LLM, RunnerName.PYTHON)
        thread = threading.Thread(
            target=lambda: [self._of(name) for name in names], name="warm-runners", daemon=True
        )
        thread.start()
        return thread

    def close(self, loop: LoopThread) -> None:
        """Close the runners' connections on their loop; no agent may be running."""
        closing = loop.start(self._aclose())
        if closing.wait(_CLOSE_SECONDS):
            closing.result()

    def _of(self, name: RunnerName) -> Runner:
        if name not in self._runners:
            with self._lock:
                if name not in self._runners:
                    self._runners[name] = self._make(name)
        return self._runners[name]

    def _make(self, name: RunnerName) -> Runner:
        price = price_by_name(self.providers, self.prices)
        anthropic = self.anthropic if self.anthropic.ready else None
        models = ModelAccess(self.providers.ready, anthropic, self.prices)
        match name:
            case RunnerName.LLM:
                from celeriac.agents.llm.runner import LlmRunner

                self.prices.warm()
                llm = LlmRunner(
                    self.providers,
                    self.prices,
                    servers=self.tool_servers,
                    confinement=self.confinement,
                )
                self._closers.append(llm.aclose)
                return llm
            case RunnerName.PYTHON:
                from celeriac.agents.python.runner import PythonRunner

                return PythonRunner(
                    modules=self.agent_modules,
                    confinement=self.confinement,
                    price=price,
                    models=models,
                )
            case RunnerName.COMMAND:
                from celeriac.agents.command.runner import CommandRunner

                return CommandRunner(
                    commands=self.commands,
                    confinement=self.confinement,
                    price=price,
                    models=models,
                )
            case RunnerName.CREWAI:
                from celeriac.agents.crewai.runner import CrewaiRunner
                from celeriac.agents.crewai.venv import CrewVenv

                self.prices.warm()
                return CrewaiRunner(
                    venv=CrewVenv(self.crewai_venv.absolute()),
                    providers=self.providers,
                    prices=self.prices,
                    servers=self.tool_servers,
                    confinement=self.confinement,
                )
            case RunnerName.CLAUDE:
                return self._make_claude()

    def _make_claude(self) -> Runner:
        try:
            from celeriac.agents.claude.runner import ClaudeRunner
        except ModuleNotFoundError as error:
            if error.name != "claude_agent_sdk":
                raise
            raise AgentMisconfiguredError(
                "The Claude Agent SDK isn't installed on this worker: pip install "
                "'celeriac[claude]', and restart it.",
                field="runner",
            ) from error
        self.prices.warm()
        return ClaudeRunner(
            sessions_root=self.sessions_root,
            upstream=self.anthropic,
            prices=self.prices,
            servers=self.tool_servers,
            confinement=self.confinement,
        )

    async def _aclose(self) -> None:
        for close in self._closers:
            await close()


def continues(job: Job) -> bool:
    """Whether an attempt continues in the directory of an earlier one, instead of starting over."""
    agent = job.agent
    match agent.runner:
        case RunnerName.CLAUDE:
            from celeriac.agents.claude.conversation import continuation_of

            return continuation_of(job).resume is not None
        case RunnerName.PYTHON:
            from celeriac.agents.python.functions import is_durable

            return agent.durable or is_durable(agent.function)
        case RunnerName.COMMAND:
            return agent.durable
        case RunnerName.LLM:
            return job.session is not None and job.session.execution_id == job.execution_id
        case _:
            return False
