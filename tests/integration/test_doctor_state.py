"""What doctor says of indexes, transactions, leases and releases, on a real database."""

import pytest
from sqlalchemy import text

from celeriac.db import diagnosis, workers
from celeriac.domain.doctor import Code, Finding, Level
from celeriac.domain.operations import WorkerReport
from celeriac.kit.ids import uuid7
from celeriac.services.doctor import state
from celeriac.settings import Settings
from celeriac.version import __version__
from celeriac.wiring.core import CoreServices
from celeriac.wiring.doctor import build_checks

WELL = {
    Code.INDEXES: Level.OK, Code.LONG_TRANSACTIONS: Level.OK, Code.LOST_WORKERS: Level.OK,
}  # fmt: skip


def found(settings: Settings) -> dict[Code, Finding]:
    return {each.code: each for each in build_checks(settings).state()}


def levels(settings: Settings) -> dict[Code, Level]:
    return {code: each.level for code, each in found(settings).items()}


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
    finding = found(settings)[Code.INDEXES]
    assert finding.level is Level.WARNING
    assert "ix_audit_logs_position" in finding.message
    assert "celeriac db upgrade" in str(finding.cure)


def test_an_old_transaction_is_named_with_its_program(
    container: CoreServices, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with container.database.transaction() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        assert levels(settings) == WELL  # it is young
        monkeypatch.setattr(state, "OLD_TRANSACTION_SECONDS", 0.0)
        finding = found(settings)[Code.LONG_TRANSACTIONS]
    assert finding.level is Level.WARNING
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
    finding = found(settings)[Code.LOST_WORKERS]
    assert finding.level is Level.FAILED
    assert f"worker-{__version__}.1@here" in finding.message
    assert "celeriac beat" in str(finding.cure)


def test_workers_of_other_releases_are_named(container: CoreServices, settings: Settings) -> None:
    worker(container, __version__, lease_seconds=30)
    assert levels(settings) == WELL
    worker(container, "0.0.9", lease_seconds=30)
    finding = found(settings)[Code.RELEASES]
    assert finding.level is Level.WARNING
    assert f"workers have 0.0.9, {__version__}" in finding.message
