"""What becomes of a stored change: its branch is pushed, and a pull request is opened."""

from pathlib import Path

from celeriac.agents.repository.change import Change
from celeriac.agents.repository.checkout import Author
from celeriac.agents.repository.mirrors import Mirrors
from celeriac.agents.repository.pull_requests import provider_of
from celeriac.agents.repository.push import Pusher
from celeriac.domain.errors import InvalidInputError, PushFailedError
from celeriac.domain.executions.events import EventType
from celeriac.domain.prompts import WorkLimit
from celeriac.domain.publishing import Publication, publication_of
from celeriac.kit.threads import FILES
from celeriac.services.ports import Job, RunContext


async def publish(
    mirrors: Mirrors,
    job: Job,
    context: RunContext,
    change: Change,
    *,
    author: Author,
    record: Path,
) -> None:
    """Push a stored change and open its pull request, with an event for each. Repeatable.

    `record` is the directory of the execution. Raises PushFailedError and PullRequestFailedError.
    """
    repository = job.repository
    try:
        publication = await FILES.run(_rendered, job)
    except InvalidInputError as error:
        raise PushFailedError(f"The change is stored, but not pushed: {error.message}") from None
    if repository is None or publication is None:
        return
    pushed = await Pusher(mirrors, job, repository, publication, author, record).push(change)
    await context.emit(
        EventType.PUSHED,
        {
            "url": repository.git,
            "branch": pushed.branch,
            "sha": pushed.sha,
            "new": pushed.new,
            "attempt": job.attempt,
        },
    )
    wanted = publication.pull_request
    if wanted is None:
        return
    provider, base = provider_of(repository, job, mirrors.guard), wanted.base or pushed.base
    made = await provider.open(wanted, head=pushed.branch, base=base, own=publication.own)
    await context.emit(
        EventType.PULL_REQUEST,
        {
            "url": made.url,
            "number": made.number,
            "branch": pushed.branch,
            "base": base,
            "new": made.new,
            "attempt": job.attempt,
        },
    )


def _rendered(job: Job) -> Publication | None:
    if job.repository is None:
        return None
    with WorkLimit() as work:
        return publication_of(
            job.repository,
            job.variables,
            work,
            execution_id=job.execution_id,
            task=job.task_name,
            agent=job.agent_name,
        )
