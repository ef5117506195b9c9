"""The `crewai` runner: a crew's graph as a real CrewAI crew, in a child process.

The child is run by the Python of CrewAI's own virtual environment (`venv`), which has no Celeriac.
It calls models at the attempt's gateway, with a key of the attempt. Only killing its process stops
a crew that waits for a model, which is what a cancellation does.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import structlog

from celeriac.agents.base import final_result
from celeriac.agents.child.process import ChildCommand, Confinement
from celeriac.agents.child.run import run_in_child
from celeriac.agents.crewai import child_main
from celeriac.agents.crewai.venv import QUIET, CrewVenv, State
from celeriac.agents.gateway.calls import ModelCalls
from celeriac.agents.gateway.loopback import AttemptGateway, Route
from celeriac.agents.gateway.openai import ChatCompletions
from celeriac.agents.gateway.recording import recording
from celeriac.agents.gateway.served_models import ServedModels
from celeriac.agents.mcp.servers import StdioServer, ToolServers, programs_of
from celeriac.agents.models import ModelRef, Prices, Providers
from celeriac.domain.agents import CrewaiAgent, McpServer, RunnerName
from celeriac.domain.crews import CrewGraph
from celeriac.domain.errors import AgentMisconfiguredError, WorkerMisconfiguredError
from celeriac.domain.executions.model import Completed
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.kit.processes import ResourceLimits
from celeriac.kit.threads import CHECKS, FILES
from celeriac.logs.pipeline import Step
from celeriac.services.ports import Job, RunContext


def programs_of_crew(crew: CrewGraph, servers: ToolServers) -> list[Path]:
    """Return the files that the commands of the crew's servers name."""
    named = {name for agent in crew.agents for name in agent.tools}
    chosen = servers.choose([McpServer(name=name) for name in sorted(named)])
    return programs_of(each.endpoint for each in chosen)


def tool_servers_of(crew: CrewGraph, servers: ToolServers) -> JsonObject:
    """Return the servers by name, with their environments and headers.

    Raises AgentMisconfiguredError, which names the node, for a server that is not configured.
    """
    described: dict[str, JsonValue] = {}
    for agent in crew.agents:
        for name in agent.tools:
            try:
                (chosen,) = servers.choose([McpServer(name=name)])
            except AgentMisconfiguredError as error:
                node = f"agents.{agent.id}"
                raise AgentMisconfiguredError(
                    f"The crew's {node} names the tools {name!r}, but no MCP server of that name "
                    "is configured for this worker. Add it to CELERIAC_MCP_SERVERS and restart "
                    "the workers, or correct the name.",
                    field="crew",
                    node=node,
                ) from error
            endpoint = chosen.endpoint
            if isinstance(endpoint, StdioServer):
                described[name] = {
                    "command": list(endpoint.command),
                    "environment": dict(endpoint.environment),
                }
            else:
                described[name] = {"url": endpoint.url, "headers": dict(endpoint.headers)}
    return described


logger = structlog.get_logger(__name__)

_MEGABYTE = 1024 * 1024
_PRIVATE = ".crewai"
MIN_MEMORY_MB = 400
"""CrewAI needs 300 MB before its agents start."""
_FOREIGN = frozenset({"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"})


class CrewaiRunner:
    """Runs agents of the kind `crewai`."""

    name: ClassVar[str] = RunnerName.CREWAI
    resumable: ClassVar[bool] = False
    runs_user_code: ClassVar[bool] = False

    def __init__(
        self,
        *,
        venv: CrewVenv,
        providers: Providers,
        prices: Prices,
        servers: ToolServers,
        confinement: Confinement,
    ) -> None:
        """Use the CrewAI in `venv`, and for tools the `servers` that an administrator configured.

        `confinement` has the environment and the user of the child process.
        """
        self._venv = venv
        self._providers = providers
        self._prices = prices
        self._servers = servers
        self._confinement = confinement
        self._served = ServedModels()

    async def run(self, job: Job, context: RunContext) -> Completed:
        """Run the crew and return the last task's output: text, or a value that fits its schema.

        Raises AgentMisconfiguredError before anything runs, OutputInvalidError,
        ModelCallLimitError, the errors of providers, and what `run_in_child` does. What fails
        inside the crew has the `node` in its details.
        """
        if not isinstance(job.agent, CrewaiAgent):
            raise AgentMisconfiguredError(
                f"The agent {job.agent_name} is not a crewai agent.", field="runner"
            )
        # rendering many texts would block the loop
        crew = await CHECKS.run(_rendered, job.agent.crew, job)
        reached = job.options.cassette_id is None
        choices = self._choices(crew, reached=reached)
        for choice in choices.values() if reached else ():
            await self._served.check(choice)
        tools = tool_servers_of(crew, self._servers)
        _require_memory(job.limits.memory_mb)
        if self._venv.state() is not State.READY:
            raise WorkerMisconfiguredError(self._venv.describe(), field="runner")
        logger.info(
            Step.AGENT_SET_UP,
            runner=self.name,
            process=crew.process.value,
            tasks=len(crew.tasks),
            agents=len(crew.agents),
        )
        private = context.workdir / _PRIVATE
        calls = ModelCalls(context, self._prices)
        providers = {each.provider.name: each.provider for each in choices.values()}
        routes = [Route(each, ChatCompletions(each)) for each in providers.values()]
        try:
            async with (
                recording(
                    job, context, keys=self._providers.keys, workdir=context.workdir
                ) as traffic,
                AttemptGateway.serving(calls, traffic, routes) as gateway,
            ):
                done = await run_in_child(
                    self._command(job, crew, context.workdir, private),
                    job,
                    context,
                    {"crew": _described(job, job.agent, crew, _models(choices, gateway), tools)},
                    calls=calls,
                )
        finally:
            await FILES.run(shutil.rmtree, private, ignore_errors=True)
        source = f"the crew {job.agent_name}"
        return replace(done, result=await final_result(done.result, job.output_schema, source))

    def _choices(self, crew: CrewGraph, *, reached: bool) -> dict[str, ModelRef]:
        """Return the crew's models by name; an error names the node."""
        named = {agent.model: f"agents.{agent.id}" for agent in reversed(crew.agents)}
        if crew.manager_model is not None:
            named.setdefault(crew.manager_model, "manager_model")
        choices = {}
        for model, node in named.items():
            try:
                choices[model] = self._providers.choose(model, reached=reached)
            except AgentMisconfiguredError as error:
                raise AgentMisconfiguredError(
                    f"The crew's {node}: {error.message}", field="crew", node=node
                ) from error
        return choices

    def _command(self, job: Job, crew: CrewGraph, workdir: Path, private: Path) -> ChildCommand:
        passed_on = self._confinement.environment(home=private / "home")
        kept = {name: value for name, value in passed_on.items() if name not in _FOREIGN}
        return ChildCommand(
            arguments=(str(self._venv.python), "-P", child_main.__file__),
            environment={
                **kept,
                **QUIET,
                "HOME": str(private / "home"),
                "TMPDIR": str(private / "tmp"),
                "CREWAI_STORAGE_DIR": str(private / "storage"),
            },
            workdir=workdir,
            limits=ResourceLimits(memory=job.limits.memory_mb * _MEGABYTE),
            user=self._confinement.user,
            reads=(
                self._venv.python,
                self._venv.stamp,
                Path(child_main.__file__),
                *programs_of_crew(crew, self._servers),
            ),
        )


def _models(choices: Mapping[str, ModelRef], gateway: AttemptGateway) -> JsonObject:
    """Return how the child reaches the models."""
    return {
        name: {
            "provider": choice.provider.name,
            "name": choice.model,
            "base_url": gateway.base_url(choice.provider.name),
            "api_key": gateway.key,
            "limit_field": ChatCompletions(choice.provider).limit_field,
        }
        for name, choice in choices.items()
    }


def _described(
    job: Job, agent: CrewaiAgent, crew: CrewGraph, models: JsonObject, tools: JsonObject
) -> JsonObject:
    """Return the crew as the child needs it; it holds keys, and goes over its stdin alone."""
    return {
        "graph": crew.model_dump(mode="json"),
        "models": models,
        "mcp": tools,
        "max_model_calls": agent.max_model_calls,
        "memory_mb": job.limits.memory_mb,
    }


def _require_memory(memory_mb: int) -> None:
    if memory_mb < MIN_MEMORY_MB:
        raise AgentMisconfiguredError(
            f"The task's limits.memory_mb is {memory_mb}, but a crew needs at least "
            f"{MIN_MEMORY_MB}: CrewAI alone takes 300. Raise it; 1024 is the default.",
            field="limits.memory_mb",
        )


def _rendered(crew: CrewGraph, job: Job) -> CrewGraph:
    faults = crew.check()  # it may have been stored by a release that let more pass
    if faults:
        raise AgentMisconfiguredError(
            f"The crew can't be run: {'; '.join(map(str, faults))}", field="crew"
        )
    return _with_schema(crew.render(job.variables, job.prompt), job.output_schema)


def _with_schema(crew: CrewGraph, schema: JsonObject | None) -> CrewGraph:
    """Give the last task the execution's schema if it has none."""
    *others, last = crew.tasks
    if schema is None or last.output_schema is not None:
        return crew
    last = last.model_copy(update={"output_schema": schema})
    return crew.model_copy(update={"tasks": (*others, last)})
