"""Makes partitions before executions need them."""

import structlog

from celeriac.db import partitions
from celeriac.db.engine import Database

logger = structlog.get_logger(__name__)


def make_partitions(database: Database, *, days: int) -> int:
    """Make the partitions of the current period and the next, and return of how many periods.

    New periods are of `days`.
    """
    with database.autocommit() as connection:
        made = partitions.make_ahead(connection, days=days)
    for period in made:
        logger.info("partitions.made", since=period.since, until=period.until)
    return len(made)
