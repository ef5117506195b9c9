"""The `crewai` runner: a crew's graph as a real CrewAI crew, in a child process.

The child is run by the Python of CrewAI's own virtual environment (`venv`), which has no Celeriac.
It calls models at the attempt's gateway, with a key of the attempt. Only killing its process stops
a crew that waits for a model, which is what a cancellation does.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import structlog

from celeriac.agents.base import spec_of, writes_of
from celeriac.agents.child import launcher
from celeriac.agents.child.confinement import Confinement
from celeriac.agents.child.process import ChildCommand
from celeriac.agents.child.run import run_in_child
from celeriac.agents.crewai.venv import QUIET, CrewVenv, State
from celeriac.agents.gateway.calls import ModelCalls
from celeriac.agents.gateway.loopback import AttemptGateway, Route
from celeriac.agents.gateway.openai import ChatCompletions
from celeriac.agents.gateway.recording import recording
from celeriac.agents.gateway.served_models import ServedModels
from celeriac.agents.labels import DESCRIPTION, LABEL_TOOL
from celeriac.agents.mcp.servers import Endpoint, StdioServer, ToolServers, programs_of
from celeriac.agents.models import ModelRef, Prices, Providers
from celeriac.agents.network.proxy import serving_network
from celeriac.agents.output import final_result
from celeriac.domain.agents import AgentSpec, CrewaiAgent, McpServer, RunnerName
from celeriac.domain.crews import CrewGraph
from celeriac.domain.errors import AgentMisconfiguredError, WorkerMisconfiguredError
from celeriac.domain.executions.model import Completed
from celeriac.kit.files import remove_tree
from celeriac.kit.json_types import JsonObject
from celeriac.kit.threads import CHECKS, FILES
from celeriac.logs import Step
from celeriac.services.ports import Job, RunContext

logger = structlog.get_logger(__name__)

_HERE = Path(__file__).parent
_PRIVATE = ".crewai"
MIN_MEMORY_MB = 400
"""CrewAI needs 300 MB before its agents start."""
_FOREIGN = frozenset({"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"})


@dataclass(kw_only=True, eq=False, repr=False)
class CrewaiRunner:
    """Runs agents of the kind `crewai` with the CrewAI in `venv`.

    `servers` are the MCP servers that an administrator configured. `confinement` has the
    environment and the user of the child process.
    """

    name: ClassVar[str] = RunnerName.CREWAI
    resumable: ClassVar[bool] = False
    runs_user_code: ClassVar[bool] = False

    venv: CrewVenv
    providers: Providers
    prices: Prices
    servers: ToolServers
    confinement: Confinement
    _served: ServedModels = field(default_factory=ServedModels, init=False)

    def only_waits(self, agent: AgentSpec) -> bool:
        """A crew has a process of its own."""
        del agent
        return False

    async def run(self, job: Job, context: RunContext) -> Completed:
        """Run the crew and return the last task's output: text, or a value that fits its schema.

        Raises AgentMisconfiguredError before anything runs, OutputInvalidError,
        ModelCallLimitError, the errors of providers, and what `run_in_child` does. What fails
        inside the crew has the `node` in its details.
        """
        agent = spec_of(job, CrewaiAgent)
        # rendering many texts would block the loop
        crew = await CHECKS.run(_rendered, agent.crew, job)
        choices = await self._checked_choices(crew, reached=job.options.cassette_id is None)
        confinement = await self.confinement.for_agent(agent.confinement)
        tools = self._tools(crew, job.secrets)
        _require_memory(job.limits.memory_mb)
        if self.venv.state() is not State.READY:
            raise WorkerMisconfiguredError(self.venv.describe(), field="runner")
        logger.info(
            Step.AGENT_SET_UP,
            runner=self.name,
            process=crew.process.value,
            tasks=len(crew.tasks),
            agents=len(crew.agents),
        )
        calls = ModelCalls(context, self.prices)
        providers = {each.provider.name: each.provider for each in choices.values()}
        routes = [Route(each, ChatCompletions(each)) for each in providers.values()]
        try:
            async with (
                recording(
                    job, context, keys=self.providers.keys, workdir=context.workdir
                ) as traffic,
                AttemptGateway.serving(calls, traffic, routes) as gateway,
                serving_network(confinement.rules, context, job.credentials) as network,
            ):
                proxy = network.environment(gateway.port)
                described: JsonObject = {
                    "graph": crew.model_dump(mode="json"),
                    "models": _models(choices, gateway),
                    "mcp": {name: _described(each, proxy) for name, each in tools.items()},
                    "max_model_calls": agent.max_model_calls,
                    "label_tool": _label_tool(agent),
                    "memory_mb": job.limits.memory_mb,
                }
                command = _command(self.venv, confinement, tools.values(), context.workdir)
                command = replace(
                    command,
                    environment={**command.environment, **job.secrets, **proxy},
                    writes=writes_of(job),
                    servers=network.ports(gateway.port),
                )
                extra: JsonObject = {"crew": described}
                done = await run_in_child(command, job, context, extra, calls=calls)
        finally:
            await FILES.run(remove_tree, context.workdir / _PRIVATE)
        source = f"the crew {job.agent_name}"
        return replace(done, result=await final_result(done.result, job.output_schema, source))

    async def _checked_choices(self, crew: CrewGraph, *, reached: bool) -> dict[str, ModelRef]:
        """Do what `_choices` does; of models that are `reached`, check that they are served."""
        choices = self._choices(crew, reached=reached)
        for choice in choices.values() if reached else ():
            await self._served.check(choice)
        return choices

    def _choices(self, crew: CrewGraph, *, reached: bool) -> dict[str, ModelRef]:
        """Return the crew's models by name; an error names the node."""
        named = {agent.model: f"agents.{agent.id}" for agent in reversed(crew.agents)}
        if crew.manager_model is not None:
            named.setdefault(crew.manager_model, "manager_model")
        choices = {}
        for model, node in named.items():
            try:
                choices[model] = self.providers.choose(model, reached=reached)
            except AgentMisconfiguredError as error:
                raise AgentMisconfiguredError(
                    f"The crew's {node}: {error.message}", field="crew", node=node
                ) from error
        return choices

    def _tools(self, crew: CrewGraph, secrets: Mapping[str, str]) -> dict[str, Endpoint]:
        """Return the crew's MCP servers by name; an error names the node."""
        found = {}
        for agent in crew.agents:
            for name in agent.tools:
                try:
                    (chosen,) = self.servers.choose([McpServer(name=name)], secrets)
                except AgentMisconfiguredError as error:
                    node = f"agents.{agent.id}"
                    raise AgentMisconfiguredError(
                        f"The crew's {node} names the tools {name!r}, but no MCP server of that "
                        "name is configured for this worker. Add it to CELERIAC_MCP_SERVERS and "
                        "restart the workers, or correct the name.",
                        field="crew",
                        node=node,
                    ) from error
                found[name] = chosen.endpoint
        return found


def _command(
    venv: CrewVenv, confinement: Confinement, tools: Iterable[Endpoint], workdir: Path
) -> ChildCommand:
    private, programs = workdir / _PRIVATE, programs_of(tools)
    passed_on = confinement.environment(home=private / "home")
    kept = {name: value for name, value in passed_on.items() if name not in _FOREIGN}
    return ChildCommand(
        arguments=(str(venv.python), "-P", launcher.__file__, "program.work", str(_HERE)),
        environment={
            **kept,
            **QUIET,
            "HOME": str(private / "home"),
            "TMPDIR": str(private / "tmp"),
            "CREWAI_STORAGE_DIR": str(private / "storage"),
        },
        workdir=workdir,
        user=confinement.user,
        reads=(
            venv.python,
            venv.stamp,
            Path(launcher.__file__),
            Path(__file__),
            *programs,
        ),
        sandbox=confinement.sandbox,
        shows=(
            venv.root,
            Path(sys.base_prefix),
            Path(launcher.__file__),
            _HERE,
            *(each for each in programs if each.is_file()),
        ),
    )


def _label_tool(agent: CrewaiAgent) -> JsonObject | None:
    return {"name": LABEL_TOOL, "description": DESCRIPTION} if agent.may_label else None


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


def _described(server: Endpoint, proxy: Mapping[str, str]) -> JsonObject:
    """Return a server as the child needs it; it holds keys, and goes over its stdin alone."""
    if isinstance(server, StdioServer):
        return {"command": list(server.command), "environment": {**server.environment, **proxy}}
    return {"url": server.url, "headers": dict(server.headers)}


def _require_memory(memory_mb: int) -> None:
    if memory_mb < MIN_MEMORY_MB:
        raise AgentMisconfiguredError(
            f"The task's limits.memory_mb is {memory_mb}, but a crew needs at least "
            f"{MIN_MEMORY_MB}: CrewAI alone takes 300. Raise it; 1024 is the default.",
            field="limits.memory_mb",
        )


def _rendered(crew: CrewGraph, job: Job) -> CrewGraph:
    """Return the crew of a job, whose last task has the job's schema if it has none."""
    faults = crew.check()  # it may have been stored by a release that let more pass
    if faults:
        raise AgentMisconfiguredError(
            f"The crew can't be run: {'; '.join(map(str, faults))}", field="crew"
        )
    rendered = crew.render(job.variables, job.prompt)
    *others, last = rendered.tasks
    if job.output_schema is None or last.output_schema is not None:
        return rendered
    last = last.model_copy(update={"output_schema": job.output_schema})
    return rendered.model_copy(update={"tasks": (*others, last)})
