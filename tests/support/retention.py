"""What retention deletes: executions and sessions with all that belongs to them, and their age."""

import os
import time
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac.db import partitions, reports, sessions
from celeriac.db.budgets import windows
from celeriac.db.budgets.windows import ChargeScope
from celeriac.db.executions import leases
from celeriac.db.executions.leases import PendingWrites
from celeriac.db.retention import CHILDREN
from celeriac.domain.budgets import Budget
from celeriac.domain.executions.events import EventType, NewEvent
from celeriac.domain.executions.model import Completed
from celeriac.domain.reports import ReportFormat
from celeriac.domain.usage import ModelCall
from celeriac.kit import ids
from celeriac.services.audit import AuditTrail
from celeriac.services.operations.retention import Retention, RetentionPolicy
from celeriac.services.storage_paths import StoragePaths
from tests.support.core import Core
from tests.support.objects import objects_in

DAY = 86_400
NONE = [0] * (1 + len(CHILDREN))
OWN = Budget(max_tokens=100)
POLICY = RetentionPolicy(
    executions=30,
    sessions=20,
    files=10,
    logs=10,
    audit=40,
    idempotency_keys=5,
    deliveries=3,
    rollups=60,
)
_AGE = (
    "UPDATE executions SET created_at = created_at - d, completed_at = completed_at - d",
    "UPDATE sessions SET updated_at = updated_at - d, files_removed_at = files_removed_at - d",
    "UPDATE idempotency_keys SET created_at = created_at - d",
    "UPDATE workflow_runs SET completed_at = completed_at - d",
    "UPDATE hook_deliveries SET received_at = received_at - d",
)


def places_in(directory: Path) -> StoragePaths:
    """Return the directories of files below one."""
    return StoragePaths(
        sessions=directory / "s",
        workdirs=directory / "w",
        logs=directory / "l",
        saved=directory / "v",
    )


def retention(core: Core, places: StoragePaths, policy: RetentionPolicy = POLICY) -> int:
    """Delete what is old enough; return how much that was."""
    trail = AuditTrail(core.database, "a key of tests alone: 0123456789abcdef")
    trail.seal()
    trail.seal()  # up to where the first call has looked
    objects = objects_in(places.saved.parent)
    return Retention(core.database, places, policy, trail, objects, batch=2)()


def completed(core: Core, places: StoragePaths) -> UUID:
    """Return an execution that ended and left something everywhere."""
    claim = core.running()
    notes = PendingWrites(
        claim.lease, events=[NewEvent(EventType.MESSAGE)], calls=[ModelCall("p", "m", 1, 1)]
    )
    with core.database.autocommit() as connection:
        assert leases.store_batch(connection, [notes])
    core.end(claim, Completed(1))
    execution_id = claim.lease.execution_id
    with core.database.autocommit() as connection:
        assert reports.add(connection, execution_id, ReportFormat.HTML, b"x", sha256="x")
        windows.begin_windows(connection, ChargeScope(execution_id, core.task, None, None, OWN))
    leave_files(places, execution_id)
    return execution_id


def leave_files(places: StoragePaths, execution_id: UUID) -> None:
    """Leave files of an execution."""
    places.workdir(execution_id).mkdir(parents=True)
    (places.workdir(execution_id) / "out.txt").touch()
    places.logs.mkdir(exist_ok=True)
    places.log_file(execution_id).touch()


def with_session(core: Core, places: StoragePaths) -> UUID:
    """Return a session that an execution worked in, with its files."""
    claim = core.running()
    with core.database.autocommit() as connection:
        made = sessions.begin(connection, claim.lease, runner="python", parent_id=None)
    assert made is not None
    core.finish(claim, Completed(1), (), None)
    (places.session(made) / "work").mkdir(parents=True)
    (places.session(made) / "work" / "a.txt").touch()
    return made


def pass_days(core: Core, places: StoragePaths, days: float) -> None:
    """Let days pass for all rows and files; ids are from the past, too."""
    for statement in _AGE:
        core.execute(
            statement.replace(" d", " make_interval(secs => :seconds)"), seconds=days * DAY
        )
    with core.database.transaction() as connection:
        connection.execute(text("SET LOCAL celeriac.audit_retention = on"))
        connection.execute(
            text("UPDATE audit_seals SET at = at - make_interval(secs => :seconds)"),
            {"seconds": days * DAY},
        )
    for root in (places.workdirs, places.logs):
        for path in [*root.glob("*"), *root.glob("errors/*")]:
            then = path.stat().st_mtime - days * DAY
            os.utime(path, (then, then))


def count(core: Core, table: str, execution_id: UUID) -> int:
    """Return how many rows of a table an execution has."""
    column = "id" if table == "executions" else "execution_id"
    with core.database.autocommit() as connection:
        query = text(f"SELECT count(*) FROM {table} WHERE {column} = :id")
        return int(connection.execute(query, {"id": execution_id}).scalar_one())


def make_ids_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let new ids be of a year ago, as those of old rows are, and periods be read in parts."""
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() - 365 * DAY * 10**9)
    monkeypatch.setattr(ids, "_sequence", type(ids._sequence)())  # it never goes backwards
    monkeypatch.setattr(partitions, "_MOST_READ", 2)
