"""What a program checks before it starts, so that it says plainly what is wrong (E8)."""

from collections.abc import Iterator, Sequence

from celeriac.cli.checks.finding import Finding, Level
from celeriac.cli.checks.servers import check_broker, check_database, check_redis
from celeriac.cli.exits import CommandError
from celeriac.settings import Settings


class NotReadyError(CommandError):
    """A program can't start: something that it needs doesn't work."""

    code = "not_ready"


def check_servers(settings: Settings, *, program: str, broker_needed: bool) -> Sequence[Finding]:
    """Return what is doubtful about the servers that `program` needs.

    Raises NotReadyError naming everything that doesn't work and what helps. Without
    `broker_needed` a broker that is away is doubtful: what is accepted is stored and sent later.
    """
    needed = [*check_database(settings)]
    helpful = [*check_redis(settings), *check_broker(settings)]
    if broker_needed:
        needed, helpful = [*needed, *helpful], []
    failed = [finding for finding in needed if finding.level is Level.FAIL]
    if failed:
        raise NotReadyError(
            "\n".join([f"{program} can't start.", *_tell(failed)]), exit_code=failed[0].exit_code
        )
    return [finding for finding in [*needed, *helpful] if finding.level is not Level.OK]


def _tell(findings: Sequence[Finding]) -> Iterator[str]:
    for finding in findings:
        yield f"  {finding.subject}: {finding.message}"
        if finding.cure:
            yield f"    {finding.cure}"
