"""The `claude` runner: Claude Code as an agent, in the working directory of its session.

Imports the Agent SDK, which takes half a second and is an extra: only `celeriac.agents.registry`
imports this module, when the first agent of this kind is run.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from claude_agent_sdk import (
    AssistantMessage,
    ClaudeSDKError,
    ResultMessage,
    SystemMessage,
    UserMessage,
)

from celeriac.agents.base import emit_message, spec_of
from celeriac.agents.child.confinement import Confinement
from celeriac.agents.claude.conversation import (
    Conversation,
    Inbox,
    ResumePoint,
    ResumeState,
    continuation_of,
    state_of,
)
from celeriac.agents.claude.environment import (
    SWITCHES,
    CliProcess,
    Sandboxed,
    SessionDirectories,
    find_cli,
    sdk_options,
)
from celeriac.agents.claude.failures import CUT_OFF, failure_of, failure_of_sdk, structured_answer
from celeriac.agents.claude.labelling import LABEL_SERVER, label_server
from celeriac.agents.claude.permissions import Permissions, Policy, QuestionKeys
from celeriac.agents.claude.place import SessionPlace
from celeriac.agents.claude.session_store import mirror, write_conversation
from celeriac.agents.claude.tool_servers import check_servers, relayed, server_configs
from celeriac.agents.claude.transcript import Transcript
from celeriac.agents.gateway.anthropic import Messages
from celeriac.agents.gateway.calls import ModelCalls
from celeriac.agents.gateway.loopback import AttemptGateway, Route
from celeriac.agents.gateway.recording import Traffic, recording
from celeriac.agents.mcp.servers import ResolvedServer, ToolServers, confined, programs_of
from celeriac.agents.models import ANTHROPIC, AnthropicEndpoint, Prices
from celeriac.agents.network.proxy import AttemptNetwork, serving_network
from celeriac.agents.output import ObjectSchema, final_result
from celeriac.domain.agents import AgentSpec, ClaudeAgent, RunnerName
from celeriac.domain.errors import (
    AgentMisconfiguredError,
    CeleriacError,
    ProviderError,
    ToolServerError,
)
from celeriac.domain.executions.model import Completed, MustWaitError, Parked
from celeriac.domain.executions.states import WaitingFor
from celeriac.kit.json_types import JsonObject
from celeriac.kit.loop import run_shielded
from celeriac.kit.threads import FILES
from celeriac.kit.users import UnreachableError
from celeriac.logs import Step, get_logger
from celeriac.services.ports import Job, RunContext

_log = get_logger(__name__)

_STDERR_LINES = 50

_DEFERRED = "tool_deferred"
_DEFERRED_LOST = "tool_deferred_unavailable"


@dataclass(kw_only=True, eq=False, repr=False)
class ClaudeRun:
    """One attempt with Claude Code."""

    runner: "ClaudeRunner"
    job: Job
    context: RunContext
    spec: ClaudeAgent
    start: ResumeState
    session_id: UUID
    directories: SessionDirectories
    servers: Sequence[ResolvedServer]
    confinement: Confinement

    def __post_init__(self) -> None:
        self._output: ObjectSchema | None = None
        if schema := self.job.output_schema:
            asked = {name: each for name, each in schema.items() if name != "$schema"}
            self._output = ObjectSchema(asked)
        self._inbox: Inbox = asyncio.Queue()
        self._transcript = Transcript(self.context, self.start.calls)
        self._place = SessionPlace.of(self.directories.place)
        self._keys = QuestionKeys(self.start.answered, self._place)
        self._last_words: deque[str] = deque(maxlen=_STDERR_LINES)
        self._conversation_id: str | None = None
        """Claude Code's id of the conversation, once it can be continued."""

    async def run(self) -> Completed | Parked:
        """Raises what `ClaudeRunner.run` does."""
        upstream = self.runner.upstream
        keys = [upstream.api_key] if upstream.api_key else []
        async with recording(
            self.job, self.context, keys=keys, workdir=self.directories.work
        ) as traffic:
            if not traffic.replays:
                upstream.check()
            try:
                return await self._outcome(traffic)
            except (MustWaitError, ProviderError):
                # The next attempt continues: the calls so far were charged.
                await self._keep(ResumePoint.GO_ON)
                raise
            except asyncio.CancelledError:
                # As at a worker's shutdown; a worker that lost the attempt may not write.
                with suppress(CeleriacError):
                    await run_shielded(self._keep(ResumePoint.GO_ON))
                raise

    async def _outcome(self, traffic: Traffic) -> Completed | Parked:
        calls = ModelCalls(self.context, self.runner.prices, on_stop=self._inbox.put_nowait)
        wire = Messages()
        route = Route(self.runner.upstream.provider, wire, explains=False)
        async with (
            relayed(self.servers) as relays,
            AttemptGateway.serving(calls, traffic, [route], relays) as gateway,
            serving_network(self.confinement.rules, self.context, self.job.credentials) as network,
        ):
            permissions = Permissions(
                Policy(self.spec, self.directories.start),
                agent_name=self.job.agent_name,
                context=self.context,
                is_alone=wire.is_alone,
                answers=await self.context.answers(),
                keys=self._keys,
                place=self._place,
                asked_in=self.start.place,
                open_in=dict.fromkeys(self.start.calls, self.start.directory),
                on_stop=self._inbox.put_nowait,
            )
            try:
                async with self._connected(gateway, network, permissions) as conversation:
                    if self.start.prompt is not None:
                        await self._say(conversation, self.start.prompt)
                    result = await self._listen(conversation)
                    while feedback := await self._feedback(result, calls):
                        await self._say(conversation, feedback)
                        result = await self._listen(conversation)
            except ClaudeSDKError as error:
                last_words = list(self._last_words)
                raise failure_of_sdk(error, calls.failure, self.spec, last_words) from error
            finally:
                self._transcript.deltas.flush()
        if result.stop_reason == _DEFERRED and permissions.pending is not None:
            await self._keep(
                ResumePoint.OPEN_CALL, self._transcript.open_calls, permissions.pending_in
            )
            question = permissions.pending
            return Parked(WaitingFor.APPROVAL, question.title, questions=(question,))
        if result.stop_reason == _DEFERRED_LOST:
            raise ToolServerError(
                "The tool whose call was approved no longer exists: its MCP server is gone."
            )
        failure = failure_of(result, calls.failure, self.spec, ended=calls.finish_reason)
        if failure is not None:
            raise failure
        await self._keep(ResumePoint.BEGIN)
        value = await structured_answer(self._output, result) if self._output else result.result
        return Completed(
            await final_result(value, None, f"the agent {self.job.agent_name}"),
            truncated=self._output is None and result.stop_reason == CUT_OFF,
        )

    @asynccontextmanager
    async def _connected(
        self, gateway: AttemptGateway, network: AttemptNetwork, permissions: Permissions
    ) -> AsyncIterator[Conversation]:
        home = self.directories.config
        environment = {
            **self.confinement.environment(self.spec.environment, home=home),
            **self.job.secrets,
            **SWITCHES,
            "HOME": str(home),
            "CLAUDE_CONFIG_DIR": str(home),
            "ANTHROPIC_BASE_URL": gateway.base_url(ANTHROPIC),
            "ANTHROPIC_API_KEY": gateway.key,
            "NO_PROXY": "127.0.0.1",
            **network.environment(gateway.port),
        }
        place = self.directories.place
        user = self.confinement.user
        sandboxed = self._sandboxed(gateway, network)
        async with CliProcess.prepared(environment, place, user, sandboxed) as process:
            options = sdk_options(
                self.spec,
                self.start,
                workdir=self.directories.start,
                process=process,
                permissions=permissions,
                servers=server_configs(
                    confined(self.servers, self.confinement, network),
                    gateway.address,
                    gateway.key,
                ),
                own_servers=(
                    {LABEL_SERVER: label_server(self.context)} if self.spec.may_label else {}
                ),
                output=self._output,
                on_stderr=self._last_words.append,
                store=mirror(
                    self.context.transcripts(self.session_id), self.directories.start, self._place
                ),
            )
            async with Conversation.open(options, self._inbox, process.end) as conversation:
                process.forget_files()
                yield conversation

    def _sandboxed(self, gateway: AttemptGateway, network: AttemptNetwork) -> Sandboxed | None:
        sandbox = self.confinement.sandbox
        if sandbox is None:
            return None
        programs = tuple(programs_of(each.endpoint for each in self.servers))
        return Sandboxed(sandbox.named(), self.directories, programs, network.ports(gateway.port))

    async def _feedback(self, result: ResultMessage, calls: ModelCalls) -> str | None:
        """Return the feedback for Claude Code of a check of its work that has failed."""
        checkout = self.job.checkout
        unfinished = result.stop_reason in (_DEFERRED, _DEFERRED_LOST)
        if checkout is None or unfinished:
            return None
        if failure_of(result, calls.failure, self.spec, ended=calls.finish_reason) is not None:
            return None
        return await checkout.check()

    async def _say(self, conversation: Conversation, prompt: str) -> None:
        await emit_message(self.context, "user", prompt)
        await conversation.say(prompt)
        _log.info(Step.MESSAGE_SENT, model=self.spec.model)

    async def _listen(self, conversation: Conversation) -> ResultMessage:
        """Record the conversation up to the result."""
        async for message in conversation.messages(
            self.spec.idle_seconds, excused=lambda: bool(self._transcript.open_calls)
        ):
            match message:
                case ResultMessage():
                    self._conversation_id = self._conversation_id and message.session_id
                    return message
                case SystemMessage():
                    check_servers(message)
                case AssistantMessage(error=None, session_id=conversation_id):
                    await self._note(conversation_id)
                case AssistantMessage():
                    continue  # Claude Code's report of a failed call, which the result has too
                case UserMessage():
                    await self._note(self.start.resume)
            await self._transcript.record(message)
        raise ClaudeSDKError("Claude Code ended without a result.")

    async def _note(self, conversation_id: str | None) -> None:
        """Store the conversation's id once; after a crash the next attempt starts over."""
        if self._conversation_id is None and conversation_id is not None:
            self._conversation_id = conversation_id
            await self._keep(ResumePoint.BEGIN)

    async def _keep(
        self,
        following: ResumePoint,
        calls: JsonObject | None = None,
        directory: str | None = None,
    ) -> None:
        """Store how the next attempt uses the conversation, if there is one."""
        if self._conversation_id is not None:
            await self.context.save_session(
                external_id=self._conversation_id,
                state=state_of(
                    self.job,
                    following,
                    calls or {},
                    self._keys.answered,
                    (self._place.path, directory),
                ),
            )


@dataclass(kw_only=True, eq=False, repr=False)
class ClaudeRunner:
    """Runs agents of the kind `claude`; one for a process.

    Sessions lie under `sessions_root`; `confinement` has the environment and the user of Claude
    Code and its tools.
    """

    name: ClassVar[str] = RunnerName.CLAUDE
    resumable: ClassVar[bool] = True
    runs_user_code: ClassVar[bool] = False

    sessions_root: Path
    upstream: AnthropicEndpoint
    prices: Prices
    servers: ToolServers
    confinement: Confinement

    def only_waits(self, agent: AgentSpec) -> bool:
        """Claude Code is a process of its own, of more than a hundred megabytes."""
        del agent
        return False

    async def run(self, job: Job, context: RunContext) -> Completed | Parked:
        """Run the job in Claude Code; see `Runner.run`.

        The result is its last message or, if the task has an output schema, a value that fits it.
        Raises ProviderError, ProviderRateLimitedError, ProviderRefusedError, OutputInvalidError,
        ContentFilteredError, ModelCallLimitError, ToolServerError, SessionUnavailableError,
        ChildCrashedError or AgentMisconfiguredError, and what the context raises.
        """
        spec = spec_of(job, ClaudeAgent)
        if not job.prompt.strip():
            raise AgentMisconfiguredError(
                f"The prompt of the task {job.task_name} is empty; Claude Code needs one.",
                field="prompt",
            )
        start = continuation_of(job)
        servers = self.servers.choose(spec.mcp_servers, job.secrets)
        confinement = await self.confinement.for_agent(spec.confinement)
        session_id = await context.save_session()
        inner = None if job.repository is None else job.repository.path
        directories = SessionDirectories.of(self.sessions_root, session_id, inner)
        source = job.session.id if start.resume and job.session else session_id
        copied = None if source == session_id else source
        await context.session_files(session_id, directories.work, copy_of=copied)
        await self._prepare(directories, servers, confinement)
        if start.resume is not None:
            await write_conversation(
                context.transcripts(source),
                start.resume,
                directories.config,
                directories.start,
                confinement.user,
            )
        _log.info(
            Step.AGENT_SET_UP,
            runner=self.name,
            model=spec.model,
            structured=job.output_schema is not None,
            resumed=start.resume is not None,
        )
        run = ClaudeRun(
            runner=self,
            job=job,
            context=context,
            spec=spec,
            start=start,
            session_id=session_id,
            directories=directories,
            servers=servers,
            confinement=confinement,
        )
        return await run.run()

    async def _prepare(
        self,
        directories: SessionDirectories,
        servers: Sequence[ResolvedServer],
        confinement: Confinement,
    ) -> None:
        """Make the session's directories, and let the agent's user reach what it needs."""
        user = confinement.user

        def make() -> None:
            user.let_read([Path(find_cli()), *programs_of(each.endpoint for each in servers)])
            directories.make(user)

        try:
            await FILES.run(make)
        except UnreachableError as error:
            raise AgentMisconfiguredError(str(error), field="runner") from error
