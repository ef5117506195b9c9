"""A runner whose agents work in the checkout of a repository: made before, collected after.

A checkout is made once for an execution. The next attempt keeps it where the agent continues: in a
conversation that is resumed, in a durable function, after an answer. Where it starts over it gets a
new one, at the same commit, after what the earlier attempt has changed was stored.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

import structlog

from celeriac.agents.base import note
from celeriac.agents.child.confinement import Confinement
from celeriac.agents.repository.change import Change, Collector, NewCommit, head_of, set_aside
from celeriac.agents.repository.checkout import (
    LEFT,
    Author,
    CheckoutState,
    check_directory,
    make_checkout,
)
from celeriac.agents.repository.checks import Checks
from celeriac.agents.repository.mirrors import Mirrors, locked
from celeriac.agents.repository.publish import publish
from celeriac.domain.agents import AgentSpec, RunnerName
from celeriac.domain.errors import (
    AgentMisconfiguredError,
    CeleriacError,
    ExecutionError,
    PushFailedError,
    RepositoryRefusedError,
    RepositoryUnavailableError,
    SessionUnavailableError,
)
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Completed, Parked
from celeriac.domain.repositories import Repository, RepositoryRule, branch_of
from celeriac.kit import locks
from celeriac.kit.files import remove_tree
from celeriac.kit.loop import run_shielded
from celeriac.kit.threads import FILES
from celeriac.kit.users import UnreachableError
from celeriac.services.ports import CHECKOUT, Checkout, Job, RunContext, Runner
from celeriac.services.storage_paths import StoragePaths

logger = structlog.get_logger(__name__)

_CANCELLED_SECONDS = 2.0
"""How long a cancelled attempt may take to store its change: a worker abandons it after five, and
its agent has had two."""

_LOCK = "checkout.lock"
_LOCK_SECONDS = 15.0
_EXPANDED = 4
"""How much larger a checkout may be than what is fetched."""
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Repositories:
    """What all attempts with repositories share in a worker process."""

    rule: RepositoryRule
    mirrors: Mirrors
    collector: Collector
    confinement: Confinement
    places: StoragePaths

    async def for_agent(self, agent: AgentSpec) -> "Repositories":
        """Return what holds for an agent, which may ask for stricter confinement.

        Raises WorkerMisconfiguredError where the worker can't confine it so.
        """
        confinement = await self.confinement.for_agent(agent.confinement)
        collector = replace(self.collector, confinement=confinement)
        return replace(self, confinement=confinement, collector=collector)


@dataclass(frozen=True, slots=True)
class _Place:
    """The directories of an attempt: `base` is the execution's, `state` is beside the checkout."""

    base: Path
    state: Path
    top: Path
    home: Path

    def workdir(self, repository: Repository) -> Path:
        return self.top if repository.path is None else self.top / repository.path


class RepositoryRunner:
    """Runs what `inner` does in a checkout. Its attempts hold a slot: they start processes."""

    def __init__(
        self, inner: Runner, shared: Repositories, *, continues: Callable[[Job], bool]
    ) -> None:
        """`continues` says whether an attempt continues in the directory of an earlier one."""
        self._inner = inner
        self._shared = shared
        self._continues = continues
        self.name = inner.name
        self.resumable = inner.resumable
        self.runs_user_code = inner.runs_user_code

    def only_waits(self, agent: AgentSpec) -> bool:
        """It starts git."""
        del agent
        return False

    async def run(self, job: Job, context: RunContext) -> Completed | Parked:
        """Make the checkout, run the agent and the checks, and store the change.

        Raises RepositoryUnavailableError, RepositoryRefusedError, SetupFailedError,
        VerifyFailedError, and what the agent's runner does.
        """
        repository = job.repository
        assert repository is not None, "the registry gives this runner to jobs with a repository"
        if refusal := self._shared.rule.refusal(repository):
            raise RepositoryRefusedError(refusal, field="repository")
        session_id = await context.save_session() if self._is_claude else None
        shared = await self._shared.for_agent(job.agent)
        work = _Attempt(shared, job, context, repository, self._place(job, session_id))
        continues = self._continues(job)
        copied = self._copied(job, session_id) if continues else None
        async with work.alone():
            if session_id is not None:
                # what was saved of it comes first; the agent's runner finds it there then
                await context.session_files(session_id, work.place.top, copy_of=copied)
            return await self._run(work, job, context, continues=continues, copied=copied)

    async def _run(
        self,
        work: "_Attempt",
        job: Job,
        context: RunContext,
        *,
        continues: bool,
        copied: UUID | None,
    ) -> Completed | Parked:
        try:
            await work.begin(continues=continues, in_session=self._is_claude, copied=copied)
        except UnreachableError as error:
            raise AgentMisconfiguredError(str(error), field="runner") from error
        try:
            done = await self._work(work, job, context)
        except asyncio.CancelledError:
            await run_shielded(work.save_soon(_CANCELLED_SECONDS))
            raise
        except BaseException:
            await work.save_soon(None)
            raise
        change = await work.save()
        if isinstance(done, Completed):
            await work.publish(change)
            if not (self._is_claude or continues):
                await work.remove_git()
        return done

    async def _work(self, work: "_Attempt", job: Job, context: RunContext) -> Completed | Parked:
        checks = work.checks
        if work.is_fresh:
            await work.prepare()
        job = replace(job, checkout=work.checkout, repository_access=None)
        while True:
            done = await self._inner.run(job, context)
            if isinstance(done, Parked) or checks.passed:
                return done
            feedback = await checks.verify()
            if feedback is None:
                return done
            await work.check_directory()
            # a conversation that was resumed has had its answers: this is a new one
            prompt = f"{work.prompt}\n\n{feedback}"
            job = replace(job, feedback=feedback, prompt=prompt, session=None)

    @property
    def _is_claude(self) -> bool:
        return self.name == RunnerName.CLAUDE

    def _place(self, job: Job, session_id: UUID | None) -> _Place:
        places = self._shared.places
        base = places.workdir(job.execution_id).absolute()
        if session_id is None:
            return _Place(base, base, base / CHECKOUT, base / "home")
        session = places.session(session_id).absolute()
        return _Place(base, session, session / "work", session / "home")

    @staticmethod
    def _copied(job: Job, session_id: UUID | None) -> UUID | None:
        """Return the session that is to be copied."""
        if session_id is None or job.session is None or job.session.id == session_id:
            return None
        return job.session.id


class _Attempt:
    """One attempt in its checkout."""

    def __init__(
        self,
        shared: Repositories,
        job: Job,
        context: RunContext,
        repository: Repository,
        place: _Place,
    ) -> None:
        self._shared = shared
        self._job = job
        self._context = context
        self._repository = repository
        self.place = place
        self._state: CheckoutState | None = None
        self.is_fresh = False
        self._branch = branch_of(job.execution_id)
        self._author = Author(job.agent_name, f"{job.execution_id}@celeriac.invalid")
        self.checks = Checks(
            repository=repository,
            context=context,
            confinement=shared.confinement,
            top=place.top,
            workdir=place.workdir(repository),
            home=place.home,
            environment=tuple(getattr(job.agent, "environment", ())),
            memory_mb=job.limits.memory_mb,
        )

    @property
    def checkout(self) -> Checkout:
        """What the agent's runner needs."""
        place = self.place
        return Checkout(
            place.top, place.workdir(self._repository), place.home, check=self.checks.verify
        )

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Make the directories, and let no other attempt work in them while the block runs.

        One whose worker has lost it may still be ending. Raises RepositoryUnavailableError if it
        does not.
        """
        place = self.place
        for directory in (place.base, place.state):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path, until = place.state / _LOCK, time.monotonic() + _LOCK_SECONDS
        while (lock := locked(path)) is None:
            if time.monotonic() > until:
                raise RepositoryUnavailableError("An earlier attempt still works in the checkout.")
            await asyncio.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            locks.unlock(lock)

    async def begin(self, *, continues: bool, in_session: bool, copied: UUID | None) -> None:
        """See that the checkout is there, new or as an earlier attempt has left it.

        `in_session` says that the agent can't continue without the one of its session, and `copied`
        is the session that its runner copies. Raises what `RepositoryRunner.run` does.
        """
        place, job = self.place, self._job
        parent = None if copied is None else self._shared.places.session(copied).absolute()
        earlier = await FILES.run(CheckoutState.read, place.base)
        if earlier is None:
            earlier = await FILES.run(CheckoutState.read, parent or place.state)
        own = earlier if earlier and self._is_own(earlier) else None
        usable = own is not None and own.prepared and (place.top / ".git").is_dir()
        if continues and (in_session or usable):
            await self._keep(earlier, parent)
        else:
            await self._make(own)
        state = self._state
        assert state is not None
        user = self._shared.confinement.user
        if parent is None:
            await FILES.run(user.own, place.top)
        await FILES.run(user.own, place.home)
        await self._write(state)
        await FILES.run(self._note_files)
        await self._context.emit(
            EventType.CHECKOUT,
            {
                "git": state.git,
                "ref": state.ref,
                "sha": state.sha,
                "path": self._repository.path,
                "new": self.is_fresh,
                "attempt": job.attempt,
            },
        )

    async def _write(self, state: CheckoutState) -> None:
        """Store the state beside the checkout, and in the directory that is saved."""
        for directory in {self.place.state, self.place.base}:
            await FILES.run(state.write, directory)

    def _note_files(self) -> None:
        """Have the directory of the execution saved: its own one, or the one beside a session."""
        directory = self._context.workdir
        if self.place.state != self.place.base:  # the agent works elsewhere
            inner = self._repository.path or ""
            for _ in range(1 + len(Path(inner).parts)):
                directory.rmdir()
                directory = directory.parent

    async def _keep(self, earlier: CheckoutState | None, parent: Path | None) -> None:
        top = self.place.top
        place = top if parent is None or top.is_dir() else parent / "work"
        if earlier is None:
            # saved by another worker, for another execution: the change is what follows
            head = await FILES.run(head_of, place)
            if head is not None:
                earlier = CheckoutState(self._repository.git, None, head, "", 0, prepared=True)
        if earlier is None or not (place / ".git").is_dir():
            raise SessionUnavailableError(
                "The checkout that the agent worked in is not on this worker, or its session has "
                "none. Run the task without the session."
            )
        if earlier.git != self._repository.git:
            raise SessionUnavailableError(
                f"The session works in a checkout of {earlier.git}, not of {self._repository.git}."
                " Run the task without the session."
            )
        await check_directory(place, self._repository, LEFT)
        job = self._job
        self._state = replace(
            earlier, execution_id=str(job.execution_id), attempt=job.attempt, saved=False
        )

    async def _make(self, earlier: CheckoutState | None) -> None:
        """Make a new checkout, at the commit of the earlier one of this execution."""
        place, job, repository = self.place, self._job, self._repository
        if earlier is not None:
            if not earlier.saved and place.top.is_dir():
                await self._rescue(earlier)
            await FILES.run(set_aside, place.base, earlier.attempt)
        for directory in (place.state, place.base):
            CheckoutState.forget(directory)
        same = earlier is not None and (earlier.git, earlier.ref) == (
            repository.git,
            repository.ref,
        )
        sha = earlier.sha if earlier is not None and same else None
        async with self._shared.mirrors.holding(
            repository, job.workspace_id, sha, job.repository_access
        ) as found:
            await make_checkout(
                found,
                repository,
                place.top,
                branch=self._branch,
                author=self._author,
                most_bytes=_EXPANDED * self._shared.mirrors.limits.fetch_bytes,
            )
        self.is_fresh = True
        self._state = CheckoutState(
            repository.git, repository.ref, found.sha, str(job.execution_id), job.attempt
        )

    async def _rescue(self, earlier: CheckoutState) -> None:
        """Store what an attempt has left that could not do it itself."""
        try:
            change = await self._collect(earlier)
        except CeleriacError as error:
            await self._warn(error.message)
        else:
            await self._emit_change(change, earlier.attempt)

    def _is_own(self, state: CheckoutState) -> bool:
        return state.execution_id == str(self._job.execution_id)

    async def _collect(self, state: CheckoutState) -> Change:
        return await self._shared.collector.collect(
            self.place.top,
            self.place.base,
            NewCommit(
                base=state.sha,
                branch=self._branch,
                author=self._author,
                message=f"Work of the agent {self._job.agent_name}\n\n"
                f"Execution: {self._job.execution_id}",
            ),
        )

    async def prepare(self) -> None:
        """Run `setup` in a new checkout. Raises SetupFailedError."""
        state = self._state
        assert state is not None
        await self.checks.prepare()
        self._state = replace(state, prepared=True)
        await self._write(self._state)

    async def save(self) -> Change | None:
        """Store the change and emit its event; without a usable `.git`, emit a warning."""
        state = self._state
        assert state is not None
        try:
            change = await self._collect(state)
        except ExecutionError as error:
            await self._warn(error.message)
            return None
        await self._write(replace(state, saved=True))
        await self._emit_change(change, state.attempt)
        return change

    async def publish(self, change: Change | None) -> None:
        """Push the stored change and open its pull request, if the task says so.

        Raises PushFailedError and PullRequestFailedError.
        """
        if self._repository.pushes is None:
            return
        if change is None:
            raise PushFailedError("The change can't be stored, so there is nothing to push.")
        if change.head == change.base:
            return
        await publish(
            self._shared.mirrors,
            self._job,
            self._context,
            change,
            author=self._author,
            record=self.place.base,
        )

    async def save_soon(self, seconds: float | None) -> None:
        """Do what `save` does after a failure, which it does not hide.

        The files stay; if it fails or takes longer than `seconds`, the next attempt does it.
        """
        try:
            async with asyncio.timeout(seconds):
                await self.save()
        except TimeoutError:
            logger.warning("repository.change_not_stored", seconds=seconds)
        except (CeleriacError, OSError) as error:  # as of a lost attempt, or a full disk
            logger.warning("repository.change_not_stored", error=str(error))

    async def remove_git(self) -> None:
        """Remove `.git` and the home, which are not needed once the change is stored.

        The state stays: should the outcome be lost with the worker, the next attempt begins at the
        same commit and keeps the patch of this one.
        """
        state = await FILES.run(CheckoutState.read, self.place.state)
        if state is not None and state.saved:
            for each in (self.place.top / ".git", self.place.home):
                await FILES.run(remove_tree, each)

    async def check_directory(self) -> None:
        """Raise RepositoryRefusedError if the directory to work in is gone, or is a link."""
        await check_directory(self.place.top, self._repository, LEFT)

    @property
    def prompt(self) -> str:
        """The prompt as the task has it."""
        return self._job.prompt

    async def _emit_change(self, change: Change, attempt: int) -> None:
        await self._context.emit(EventType.CHANGE, {**change.data, "attempt": attempt})

    async def _warn(self, message: str) -> None:
        await note(self._context, message, source="repository", level="warning")
