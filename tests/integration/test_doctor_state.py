"""What doctor says of indexes, transactions, leases and releases, on a real database."""

import pytest
from sqlalchemy import text

from celeriac.cli.doctor import state
from celeriac.cli.doctor.findings import Finding, Level
from celeriac.db import diagnosis, workers
from celeriac.domain.operations import WorkerReport
from celeriac.kit.ids import uuid7
from celeriac.settings import Settings
from celeriac.version import __version__
from celeriac.wiring.core import CoreServices

WELL = {"indexes": Level.OK, "transactions": Level.OK, "keeper": Level.OK}


def found(settings: Settings) -> dict[str, Finding]:
    return {each.subject: each for each in state.check_state(settings)}


def levels(settings: Settings) -> dict[str, Level]:
    return {subject: each.level for subject, each in found(settings).items()}


def worker(container: CoreServices, version: str, *, lease_seconds: float) -> None:
    report = WorkerReport(
        id=uuid7(), hostname=f"worker-{version}@here", pid=1, pool="threads", slots=1, running=0,
        cpu_percent=0, memory_bytes=0, version=version,
    )  # fmt: skip
    with container.database.transaction() as connection:
        workers.register(connection, report, lease_seconds=lease_seconds)


def test_an_interrupted_index_is_named(container: CoreServices, settings: Settings) -> None:
    assert levels(settings) == WELL
    with container.database.transaction() as connection:
        connection.execute(
            text(
                "UPDATE pg_index SET indisvalid = false"
                " WHERE indexrelid = 'ix_audit_logs_position'::regclass"
            )
        )
    finding = found(settings)["indexes"]
    assert finding.level is Level.WARN
    assert "ix_audit_logs_position" in finding.message
    assert "celeriac db upgrade" in str(finding.cure)


def test_an_old_transaction_is_named_with_its_program(
    container: CoreServices, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with container.database.transaction() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        assert levels(settings) == WELL  # it is young
        monkeypatch.setattr(state, "OLD_TRANSACTION_SECONDS", 0.0)
        finding = found(settings)["transactions"]
    assert finding.level is Level.WARN
    assert f"(process {pid})" in finding.message
    assert f"pg_terminate_backend({pid})" in str(finding.cure)
    with container.database.autocommit() as connection:
        assert diagnosis.oldest_transaction(connection) is None


def test_a_lost_worker_that_nobody_rescues_is_a_failure(
    container: CoreServices, settings: Settings
) -> None:
    worker(container, __version__, lease_seconds=-60)
    assert levels(settings) == WELL  # beat may still wait
    worker(container, f"{__version__}.1", lease_seconds=-600)
    finding = found(settings)["keeper"]
    assert finding.level is Level.FAIL
    assert f"worker-{__version__}.1@here" in finding.message
    assert "celeriac beat" in str(finding.cure)


def test_workers_of_other_releases_are_named(container: CoreServices, settings: Settings) -> None:
    worker(container, __version__, lease_seconds=30)
    assert levels(settings) == WELL
    worker(container, "0.0.9", lease_seconds=30)
    finding = found(settings)["releases"]
    assert finding.level is Level.WARN
    assert f"workers have 0.0.9, {__version__}" in finding.message
