"""The runners of a worker. A runner's module is imported when its first agent is run."""

import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from celeriac.agents.child.process import Confinement
from celeriac.agents.mcp.servers import ToolServers
from celeriac.agents.models import AnthropicEndpoint, Prices, Providers, price_by_name
from celeriac.domain.agents import AgentSpec, RunnerName
from celeriac.domain.errors import AgentMisconfiguredError
from celeriac.kit.loop import LoopThread
from celeriac.services.ports import Runner

_CLOSE_SECONDS = 5.0

WARMED = (RunnerName.LLM, RunnerName.PYTHON)
"""Runners that `warm` creates; the others are created for their first agent."""


class Registry:
    """Creates each runner once per process. Safe to share between threads.

    `agent_modules` are the packages whose functions agents may use, `commands` the programs;
    `crewai_venv` is the environment of CrewAI. Claude Code calls `anthropic` and keeps its sessions
    in `sessions_root`. `confinement` holds the environment and the user of child processes.
    """

    def __init__(
        self,
        *,
        providers: Providers,
        prices: Prices,
        agent_modules: Sequence[str],
        commands: Mapping[str, Sequence[str]],
        tool_servers: ToolServers,
        crewai_venv: Path,
        anthropic: AnthropicEndpoint,
        sessions_root: Path,
        confinement: Confinement,
    ) -> None:
        self._providers = providers
        self._prices = prices
        self._price = price_by_name(providers, prices)
        self._agent_modules = agent_modules
        self._commands = commands
        self._tool_servers = tool_servers
        self._crewai_venv = crewai_venv
        self._anthropic = anthropic
        self._sessions_root = sessions_root
        self._confinement = confinement
        self._making = threading.Lock()
        self._runners: dict[RunnerName, Runner] = {}
        self._closers: list[Callable[[], Awaitable[None]]] = []

    def get(self, agent: AgentSpec) -> Runner:
        """Return the runner of `agent`; creating it may take a second or two."""
        return self._of(agent.runner)

    def warm(self, names: Sequence[RunnerName] = WARMED) -> threading.Thread:
        """Create runners in the background, before their first executions."""
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
        runner = self._runners.get(name)
        if runner is not None:
            return runner
        with self._making:
            if name not in self._runners:
                self._runners[name] = self._make(name)
            return self._runners[name]

    def _make(self, name: RunnerName) -> Runner:
        match name:
            case RunnerName.LLM:
                from celeriac.agents.llm.runner import LlmRunner

                self._prices.warm()
                llm = LlmRunner(self._providers, self._prices, servers=self._tool_servers)
                self._closers.append(llm.aclose)
                return llm
            case RunnerName.PYTHON:
                from celeriac.agents.python.runner import PythonRunner

                return PythonRunner(
                    modules=self._agent_modules, confinement=self._confinement, price=self._price
                )
            case RunnerName.COMMAND:
                from celeriac.agents.command.runner import CommandRunner

                return CommandRunner(
                    commands=self._commands, confinement=self._confinement, price=self._price
                )
            case RunnerName.CREWAI:
                from celeriac.agents.crewai.runner import CrewaiRunner
                from celeriac.agents.crewai.venv import CrewVenv

                self._prices.warm()
                return CrewaiRunner(
                    venv=CrewVenv(self._crewai_venv.absolute()),
                    providers=self._providers,
                    prices=self._prices,
                    servers=self._tool_servers,
                    confinement=self._confinement,
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
        self._prices.warm()
        return ClaudeRunner(
            sessions_root=self._sessions_root,
            upstream=self._anthropic,
            prices=self._prices,
            servers=self._tool_servers,
            confinement=self._confinement,
        )

    async def _aclose(self) -> None:
        for close in self._closers:
            await close()
