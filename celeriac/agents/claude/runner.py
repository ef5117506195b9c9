"""The `claude` runner: Claude Code as an agent, in the working directory of its session.

Imports the Agent SDK, which takes half a second and is an extra: only `celeriac.agents.registry`
imports this module, when the first agent of this kind is run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.claude.attempt import Attempt, Setting
from celeriac.agents.claude.continuation import Continuation, continuation_of
from celeriac.agents.claude.directories import SessionDirectories
from celeriac.agents.claude.process import find_cli
from celeriac.agents.claude.upstream import Upstream
from celeriac.agents.mcp.servers import Chosen, ToolServers, programs_of
from celeriac.agents.pricing import Prices
from celeriac.domain.agent import ClaudeAgent, RunnerName
from celeriac.domain.errors import AgentMisconfiguredError
from celeriac.domain.outcome import Completed, Parked
from celeriac.kit.threads import FILES
from celeriac.kit.users import UnreachableError
from celeriac.logs import Step, get_logger
from celeriac.services.ports import Job, RunContext

_log = get_logger(__name__)


class ClaudeRunner:
    """Runs agents of the kind `claude`; one for a process.

    Sessions lie under `sessions_root`; `confinement` bounds what Claude Code and its tools see, and
    says who they run as.
    """

    name: ClassVar[str] = RunnerName.CLAUDE
    resumable: ClassVar[bool] = True
    runs_user_code: ClassVar[bool] = False

    def __init__(
        self,
        *,
        sessions_root: Path,
        upstream: Upstream,
        prices: Prices,
        servers: ToolServers,
        confinement: Confinement,
    ) -> None:
        self._root = sessions_root
        self._upstream = upstream
        self._prices = prices
        self._servers = servers
        self._confinement = confinement

    async def run(self, job: Job, context: RunContext) -> Completed | Parked:
        """Have Claude Code do the job; see `Runner.run`.

        The result is its last words or, where the task has an output schema, a value that fits it.
        Raises ProviderError, ProviderRateLimitedError, ProviderRefusedError, OutputInvalidError,
        ContentFilteredError, ModelCallLimitError, ToolServerError, SessionUnavailableError,
        ChildCrashedError or AgentMisconfiguredError, and what the context raises.
        """
        spec = _checked(job)
        start = continuation_of(job)
        servers = self._servers.choose(spec.mcp_servers)
        session_id = await context.save_session()
        directories = await self._directories(job, start, session_id, servers)
        _log.info(
            Step.AGENT_SET_UP,
            runner=self.name,
            model=spec.model,
            structured=job.output_schema is not None,
            resumed=start.resume is not None,
        )
        setting = Setting(
            directories=directories,
            upstream=self._upstream,
            prices=self._prices,
            servers=servers,
            confinement=self._confinement,
        )
        return await Attempt(job, spec, context, start, setting).run()

    async def _directories(
        self, job: Job, start: Continuation, session_id: UUID, servers: Sequence[Chosen]
    ) -> SessionDirectories:
        """Make the session's directories, with what the conversation needs to be gone on with."""
        directories = SessionDirectories.of(self._root, session_id)
        source, user = job.session, self._confinement.user

        def make() -> None:
            user.let_read([Path(find_cli()), *programs_of(each.endpoint for each in servers)])
            directories.make(user)
            if start.resume is None:
                return
            if source is not None and source.id != session_id:
                directories.copy_from(SessionDirectories.of(self._root, source.id), user)
            directories.take_over(start.resume, user)

        try:
            await FILES.run(make)
        except UnreachableError as error:
            raise AgentMisconfiguredError(str(error), field="runner") from error
        return directories


def _checked(job: Job) -> ClaudeAgent:
    if not isinstance(job.agent, ClaudeAgent):
        raise AgentMisconfiguredError(
            f"The agent {job.agent_name} is no claude agent.", field="runner"
        )
    if not job.prompt.strip():
        raise AgentMisconfiguredError(
            f"The prompt of the task {job.task_name} is empty; Claude Code needs one.",
            field="prompt",
        )
    return job.agent
