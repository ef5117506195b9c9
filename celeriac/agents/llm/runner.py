"""The `llm` runner: a language model behind any OpenAI-compatible endpoint.

Imports the model library, which takes more than a second: only `celeriac.agents.registry` imports
this module, when the first agent of this kind is run.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import ClassVar

import pydantic_ai
import structlog
from pydantic_ai.toolsets import AbstractToolset

from celeriac.agents.base import writes_of
from celeriac.agents.child.confinement import Confinement
from celeriac.agents.llm.agent_run import TOOL_RETRIES, AgentRun
from celeriac.agents.llm.approvals import parked, person_tools, record_denials, results_of
from celeriac.agents.llm.conversation import Conversation
from celeriac.agents.llm.labelling import label_tools
from celeriac.agents.llm.models import ModelFactory
from celeriac.agents.llm.silence import SilenceLimits
from celeriac.agents.llm.structured import StructuredOutput
from celeriac.agents.mcp.servers import ToolServers, confined
from celeriac.agents.models import Prices, Providers
from celeriac.agents.network.proxy import serving_network
from celeriac.domain.agents import AgentSpec, LlmAgent, RunnerName
from celeriac.domain.errors import AgentMisconfiguredError, ProviderRateLimitedError
from celeriac.domain.executions.model import Completed, MustWaitError, Parked
from celeriac.kit.outbound import OutboundGuard
from celeriac.kit.threads import CHECKS, FILES
from celeriac.logs import Step
from celeriac.services.ports import Job, RunContext

logger = structlog.get_logger(__name__)


class LlmRunner:
    """Runs agents of the kind `llm`; one for a process, on one event loop."""

    name: ClassVar[str] = RunnerName.LLM
    resumable: ClassVar[bool] = True
    runs_user_code: ClassVar[bool] = False

    def __init__(
        self,
        providers: Providers,
        prices: Prices,
        *,
        servers: ToolServers | None = None,
        confinement: Confinement | None = None,
        patience: SilenceLimits | None = None,
    ) -> None:
        """Use the models of `providers` and the tools of `servers`, as `confinement` says."""
        self._prices = prices
        self._servers = servers or ToolServers(guard=OutboundGuard())
        self._confinement = confinement or Confinement({})
        self._patience = patience or SilenceLimits()
        self._models = ModelFactory(providers, silence_seconds=self._patience.first)
        pydantic_ai.BANNER_ENABLED = False  # its greeting has no place in a worker's log

    def only_waits(self, agent: AgentSpec) -> bool:
        """It waits for its model and for tools, unless a tool server may be a process."""
        return isinstance(agent, LlmAgent) and all(each.url for each in agent.mcp_servers)

    async def run(self, job: Job, context: RunContext) -> Completed | Parked:
        """Answer the job's prompt, or continue the saved state of another attempt.

        The result is the answer's text or, if the task has an output schema, a value that fits
        it. Raises ProviderError, ProviderRateLimitedError, ProviderRefusedError,
        OutputInvalidError, ContentFilteredError, ModelCallLimitError, ToolServerError,
        SessionUnavailableError or AgentMisconfiguredError; MustWaitError of the context passes
        through. Where calls of tools were answered by then, the session holds them.
        """
        spec = _checked(job)
        conversation = Conversation(job, context)
        if conversation.result is not None:
            return conversation.result
        answers = None
        if conversation.pending:
            given = await context.answers()
            answers = results_of(conversation.pending, given)
            if answers is None:
                return parked(
                    conversation.pending,
                    conversation.history,
                    agent=job.agent_name,
                    policy=spec.approvals,
                )
            await record_denials(context, conversation.pending, given, conversation.history)
        output = None
        if job.output_schema:
            output = await CHECKS.run(StructuredOutput, job.output_schema)
        try:
            async with (
                self._models.model(spec.model, job, context) as (choice, model),
                self._toolsets(spec, job, context, conversation) as toolsets,
            ):
                logger.info(
                    Step.AGENT_SET_UP,
                    runner=self.name,
                    provider=choice.provider.name,
                    model=choice.model,
                    structured=bool(job.output_schema),
                    mcp_servers=[server.name for server in spec.mcp_servers],
                )
                run = AgentRun(
                    spec,
                    job,
                    choice=choice,
                    model=model,
                    context=context,
                    conversation=conversation,
                    prices=self._prices,
                    patience=self._patience,
                )
                return await run.run(output, toolsets, answers)
        except (MustWaitError, ProviderRateLimitedError):
            await conversation.suspend()
            raise

    async def aclose(self) -> None:
        """Close the connections; called on the loop when nothing runs."""
        await self._models.aclose()

    @asynccontextmanager
    async def _toolsets(
        self,
        spec: LlmAgent,
        job: Job,
        context: RunContext,
        conversation: Conversation,
    ) -> AsyncIterator[list[AbstractToolset[None]]]:
        """Give the block the agent's tools, connected."""
        toolsets: list[AbstractToolset[None]] = []
        if spec.may_ask:
            toolsets.append(person_tools(retries=TOOL_RETRIES))
        if spec.may_label:
            toolsets.append(label_tools(context, retries=TOOL_RETRIES))
        if not spec.mcp_servers:
            yield toolsets
            return
        chosen = self._servers.choose(spec.mcp_servers, job.secrets)
        # the SDK takes most of a second to import, which the loop does not have
        await FILES.run(import_module, "celeriac.agents.mcp.toolset")
        from celeriac.agents.mcp.toolset import connected

        confinement = await self._confinement.for_agent(spec.confinement)
        async with (
            serving_network(confinement.rules, context, job.credentials) as network,
            connected(
                confined(chosen, confinement, network),
                context,
                conversation.steps,
                retries=TOOL_RETRIES,
                writes=writes_of(job),
            ) as tools,
        ):
            yield [*toolsets, *tools]


def _checked(job: Job) -> LlmAgent:
    if not isinstance(job.agent, LlmAgent):
        raise AgentMisconfiguredError(
            f"The agent {job.agent_name} is not an llm agent.", field="runner"
        )
    if not job.prompt.strip():
        raise AgentMisconfiguredError(
            f"The prompt of the task {job.task_name} is empty; a language model needs one.",
            field="prompt",
        )
    return job.agent
