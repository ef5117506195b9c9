"""Errors of the database, classified by SQLSTATE: what is tried again, and what is a bug."""

import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    InvalidRequestError,
    OperationalError,
    StatementError,
)
from structlog.testing import capture_logs

from celeriac.db.engine import Connecting, Database, refuses
from celeriac.domain.errors import DatabaseBusyError, DatabaseTimeoutError, DatabaseUnavailableError
from celeriac.domain.executions.model import Completed
from celeriac.domain.executions.states import Status
from celeriac.services.executions.finish import Finish
from celeriac.services.executions.raised import describe
from tests.integration.services.test_running import Process, custom_events, emit
from tests.support.core import Core
from tests.support.outages import holding, read_only
from tests.support.waiting import wait_until


@pytest.fixture
def process(core: Core, tmp_path: Path) -> Process:
    """A worker process without its threads."""
    return Process(core, tmp_path)


@pytest.fixture
def impatient(shared_database: Database) -> Iterator[Database]:
    """The module's database with short time-outs, and one connection."""
    url = shared_database.engine.url.render_as_string(hide_password=False)
    opened = Database(url, connections=1, lock_seconds=0.1, statement_seconds=0.5)
    yield opened
    opened.close()


def raise_state(database: Database, state: str) -> None:
    with database.autocommit() as connection:
        connection.execute(text(f"DO $$ BEGIN RAISE 'odd' USING ERRCODE = '{state}'; END $$"))


def backend(database: Database) -> int:
    with database.autocommit() as connection:
        return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("08006", DatabaseUnavailableError),
        ("53100", DatabaseUnavailableError),
        ("53300", DatabaseUnavailableError),
        ("57P01", DatabaseUnavailableError),
        ("57P03", DatabaseUnavailableError),
        ("25006", DatabaseUnavailableError),
        ("40001", DatabaseBusyError),
        ("40P01", DatabaseBusyError),
        ("55P03", DatabaseBusyError),
        ("57014", DatabaseTimeoutError),
    ],
)
def test_the_state_says_what_an_error_is(
    database: Database, state: str, kind: type[DatabaseUnavailableError]
) -> None:
    with pytest.raises(DatabaseUnavailableError) as caught:
        raise_state(database, state)
    assert type(caught.value) is kind
    assert caught.value.details == {"sqlstate": state}


@pytest.mark.parametrize("state", ["22P05", "23514", "42P01", "58030", "XX000", "P0001", "54000"])
def test_everything_else_is_a_bug_and_comes_out_unchanged(database: Database, state: str) -> None:
    with pytest.raises(DBAPIError) as caught:
        raise_state(database, state)
    assert getattr(caught.value.orig, "sqlstate", None) == state


@pytest.mark.parametrize(
    ("state", "refused"),
    [
        ("22P05", True),
        ("23514", True),
        ("54000", True),
        ("58030", False),
        ("42501", False),
        ("42P01", False),
        ("XX000", False),
        ("26000", False),
        ("P0001", False),
    ],
)
def test_the_database_refuses_only_what_the_data_is_at_fault_for(
    database: Database, state: str, refused: bool
) -> None:
    with pytest.raises(DBAPIError) as caught:
        raise_state(database, state)
    assert refuses(caught.value) is refused


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (TypeError("not JSON"), True),
        (ValueError("too many digits"), True),
        (UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed"), True),
        (OverflowError("too large"), True),
        (StatementError("not JSON", "INSERT", {}, TypeError("object")), True),
        (StatementError("no bind", "INSERT", {}, InvalidRequestError("no value")), False),
        (DataError("INSERT", {}, psycopg.DataError("no NUL bytes")), True),
        (OperationalError("INSERT", {}, psycopg.OperationalError("cut")), False),
        (MemoryError(), False),
        (RuntimeError("can't start new thread"), False),
        (InvalidRequestError("closed"), False),
        (KeyError("x"), False),
    ],
    ids=repr,
)
def test_without_a_state_only_values_that_cannot_be_encoded_are_refused(
    error: Exception, refused: bool
) -> None:
    assert refuses(error) is refused


@pytest.mark.parametrize("work", ["autocommit", "transaction"])
def test_what_is_stored_of_an_error_holds_no_parameters(database: Database, work: str) -> None:
    value = uuid4().hex  # a traceback shows the lines of this test
    with pytest.raises(DBAPIError) as caught, getattr(database, work)() as connection:
        connection.execute(text("SELECT CAST(:value AS text) FROM odd"), {"value": value})
    failure = describe(caught.value, attempt=1).failure
    assert "odd" in failure.message
    assert value not in f"{failure.message}{failure.details}"


def test_an_answer_that_does_not_come_is_given_up_and_its_connection_too(
    impatient: Database,
) -> None:
    frozen = backend(impatient)
    os.kill(frozen, signal.SIGSTOP)  # its kernel still acknowledges what it is sent
    try:
        with pytest.raises(DatabaseUnavailableError, match="has not answered within 1 s"):
            backend(impatient)
        assert backend(impatient) != frozen
    finally:
        os.kill(frozen, signal.SIGCONT)


def test_a_commit_whose_answer_does_not_come_is_given_up(impatient: Database) -> None:
    transaction = impatient.transaction()
    frozen = transaction.__enter__().execute(text("SELECT pg_backend_pid()")).scalar_one()
    os.kill(frozen, signal.SIGSTOP)
    try:
        with pytest.raises(DatabaseUnavailableError, match="has not answered within 1 s"):
            transaction.__exit__(None, None, None)
        assert backend(impatient) != frozen
    finally:
        os.kill(frozen, signal.SIGCONT)


def test_one_caller_at_a_time_tries_a_server_that_accepts_nothing() -> None:
    connecting = Connecting(None)

    def connect() -> None:
        options = {"host": "127.0.0.1", "port": address[1], "connect_timeout": 2}
        connecting(None, None, (), options)

    def tried() -> bool:
        try:
            connect()
        except psycopg.OperationalError as error:
            if "has accepted no connection" in str(error):
                return False
            raise
        return True

    with ThreadPoolExecutor(1) as others, socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            connect()
        server.accept()[0].close()  # that of the first
        assert not tried(), "a pause comes first"
        trying = others.submit(wait_until, tried, "it may be tried")
        accepted, _ = server.accept()
        with accepted:
            assert not tried(), "another one tries"
    assert isinstance(trying.exception(), psycopg.OperationalError)
    with pytest.raises(psycopg.OperationalError, match="refused"):  # it tries itself
        connect()


def test_a_violated_constraint_comes_out_unchanged(core: Core) -> None:
    core.pending()
    with pytest.raises(IntegrityError):
        core.execute("UPDATE executions SET status = 'odd'")


def test_a_lock_time_out_says_what_it_is(core: Core, impatient: Database) -> None:
    core.pending()
    with (
        holding(core.database.engine.url, "SELECT id FROM executions FOR UPDATE"),
        pytest.raises(DatabaseBusyError, match="lock timeout") as caught,
        impatient.autocommit() as connection,
    ):
        connection.execute(text("UPDATE executions SET priority = 1"))
    assert "doesn't answer" not in caught.value.message
    assert caught.value.code == "database_busy"


def test_a_slow_statement_is_a_time_out(impatient: Database) -> None:
    with (
        pytest.raises(DatabaseTimeoutError, match="statement timeout"),
        impatient.autocommit() as connection,
    ):
        connection.execute(text("SELECT pg_sleep(60)"))


def test_an_ended_connection_is_unavailable_and_is_replaced(database: Database) -> None:
    with (
        pytest.raises(DatabaseUnavailableError),
        database.autocommit() as connection,
    ):
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert backend(database)


def test_a_server_that_nobody_runs_is_unavailable() -> None:
    nowhere = Database("postgresql://u:secret@127.0.0.1:1/db", connections=1)
    with pytest.raises(DatabaseUnavailableError, match="doesn't answer") as caught:
        backend(nowhere)
    assert "secret" not in caught.value.message


def test_a_statement_that_was_prepared_before_a_migration_fails_once(
    core: Core, impatient: Database
) -> None:
    with impatient.autocommit() as connection:
        connection.execute(text("CREATE TABLE changing (value int)"))
    read = text("SELECT value FROM changing")
    for _ in range(3):
        with impatient.autocommit() as connection:
            connection.execute(read)
    core.execute("ALTER TABLE changing ALTER value TYPE text")
    refused = pytest.raises(DatabaseUnavailableError, match="cached plan")
    with refused, impatient.autocommit() as connection:
        connection.execute(read)
    with impatient.autocommit() as connection:
        connection.execute(read)
        connection.execute(text("DROP TABLE changing"))


def test_no_connection_to_a_read_only_server_is_kept(core: Core, impatient: Database) -> None:
    """After a failover the pool is full of connections to the server that was the primary."""
    with impatient.autocommit() as connection:
        connection.execute(text("SET default_transaction_read_only = on"))
    demoted = backend(impatient)
    with pytest.raises(DatabaseUnavailableError, match="read-only"), impatient.autocommit() as held:
        held.execute(text("UPDATE executions SET priority = 1"))
    assert backend(impatient) != demoted
    with impatient.autocommit() as connection:
        connection.execute(text("UPDATE executions SET priority = 1"))


@pytest.mark.requirement("B13")
def test_a_read_only_server_loses_no_note_and_no_result(core: Core, process: Process) -> None:
    claim = core.running()
    attempt = process.attempt(claim)
    with (
        ThreadPoolExecutor(1) as thread,
        capture_logs() as logs,
        process.active.registered(attempt),
    ):
        emit(attempt, "a")
        with read_only(core.database.engine.url):
            process.event_writer.flush()
            process.event_writer.flush()
            emit(attempt, "b")
            process.heartbeat.beat()
            last = attempt.last_batches()
            finishing = thread.submit(core.finish, claim, Completed(1), last, None)
            wait_until(lambda: "database.unavailable" in str(logs), "the result waits")
        assert finishing.result(30).status is Status.COMPLETED
    assert attempt.stop_reason is None
    assert custom_events(core, claim) == ["a", "b"]
    core.assert_consistent()


def test_a_page_waits_for_a_database_that_may_accept_it_later(core: Core, process: Process) -> None:
    """A missing table is a bug, or a migration that is under way: no fault of the page."""
    claim = core.running()
    attempt = process.attempt(claim)
    with process.active.registered(attempt):
        emit(attempt, "a")
        core.execute("ALTER TABLE usage_deltas RENAME TO usage_deltas_away")
        try:
            process.event_writer.flush()
        finally:
            core.execute("ALTER TABLE usage_deltas_away RENAME TO usage_deltas")
        emit(attempt, "b")
        wait_until(
            lambda: flushed(process) and len(custom_events(core, claim)) == 2, "both are stored"
        )
    assert custom_events(core, claim) == ["a", "b"]


def test_an_error_that_stays_is_logged_once_and_pauses_the_notes(
    core: Core, process: Process
) -> None:
    claims = [core.running(), core.running()]
    attempts = [process.attempt(claim) for claim in claims]
    with process.active.registered(attempts[0]), process.active.registered(attempts[1]):
        emit(attempts[0], "a")
        emit(attempts[1], "b")
        core.execute("ALTER TABLE usage_deltas RENAME TO usage_deltas_away")
        try:
            with capture_logs() as logs:
                process.event_writer.flush()
                wait_until(lambda: flushed(process) and _tried(process, 2), "a second try")
        finally:
            core.execute("ALTER TABLE usage_deltas_away RENAME TO usage_deltas")
        assert [entry["event"] for entry in logs] == ["event_writer.failed"]
        assert "exc_info" not in logs[0]
        wait_until(lambda: flushed(process) and custom_events(core, claims[1]), "they are stored")
    assert [custom_events(core, claim) for claim in claims] == [["a"], ["b"]]


def flushed(process: Process) -> bool:
    process.event_writer.flush()
    return True


def _tried(process: Process, times: int) -> bool:
    return process.event_writer._backoff._tries >= times


def test_a_result_outlives_a_lock_that_is_held_for_long(core: Core, impatient: Database) -> None:
    claim = core.running()
    finish = Finish(impatient, core.live)
    with ThreadPoolExecutor(1) as thread, capture_logs() as logs:
        with core.database.transaction() as holder:
            holder.execute(text("SELECT id FROM executions FOR UPDATE"))
            finishing = thread.submit(finish, claim, Completed(1), (), None)
            wait_until(lambda: logs, "the lock time-out has passed")
        assert finishing.result(30).status is Status.COMPLETED
    assert logs[0]["code"] == "database_busy"
    core.assert_consistent()
