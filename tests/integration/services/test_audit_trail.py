"""The audit trail: it can't be changed unnoticed."""

import threading
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from celeriac.db import audit
from celeriac.services.audit import AuditTrail, Verification
from tests.support.core import Core

KEY = "a key of tests alone: 0123456789abcdef"
ALLOWED = "SET LOCAL celeriac.audit_retention = on"


@pytest.fixture
def trail(core: Core) -> AuditTrail:
    return AuditTrail(core.database, KEY)


def write(core: Core, entries: int = 1) -> None:
    with core.database.transaction() as connection:
        audit.record(connection, core.actor, "test.do", [uuid4() for _ in range(entries)])


def seal(trail: AuditTrail) -> int:
    """Seal all there is: what the first call sees is sealed by the second."""
    return trail.seal() + trail.seal()


def sealed(core: Core, trail: AuditTrail, batches: int = 3) -> None:
    for _ in range(batches):
        write(core, 4)
        seal(trail)


def tamper(core: Core, statement: str) -> None:
    """Change the trail as somebody does who owns the database."""
    with core.database.transaction() as connection:
        connection.execute(text(ALLOWED))
        assert connection.execute(text(statement)).rowcount > 0, "the test changes nothing"


def whole(trail: AuditTrail) -> Verification:
    found = trail.verify()
    assert found.complete
    return found


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_logs SET actor = 'eve'",
        "DELETE FROM audit_logs",
        "TRUNCATE audit_logs",
        "UPDATE audit_seals SET entries = 0",
        "DELETE FROM audit_seals",
        "TRUNCATE audit_seals",
    ],
)
def test_the_tables_only_grow(core: Core, trail: AuditTrail, statement: str) -> None:
    sealed(core, trail, 1)
    with (
        pytest.raises(DBAPIError, match="append-only"),
        core.database.transaction() as connection,
    ):
        connection.execute(text(statement))
    assert whole(trail).ok


def test_an_untouched_trail_holds(core: Core, trail: AuditTrail) -> None:
    assert whole(trail).ok, "an empty one, too"
    core.running()
    sealed(core, trail)
    found = whole(trail)
    assert found.ok
    assert (found.entries, found.seals) == (15, 3), "with those of the catalogue's own making"
    assert trail.seal() == 0, "nothing is sealed twice"
    second = trail.verify(after=found.last_position)
    assert (second.entries, second.start, second.ok) == (0, found.head, True)


MIDDLE = "(SELECT position FROM audit_logs ORDER BY position OFFSET 6 LIMIT 1)"
FIRST_SEAL = "(SELECT min(last_position) FROM audit_seals)"
SECOND_SEAL = "(SELECT last_position FROM audit_seals ORDER BY 1 OFFSET 1 LIMIT 1)"


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (f"UPDATE audit_logs SET actor = 'eve' WHERE position = {MIDDLE}", "were changed"),
        (f"UPDATE audit_logs SET details = '[1]' WHERE position = {MIDDLE}", "were changed"),
        (f"UPDATE audit_logs SET at = at + interval '1 us' WHERE position = {MIDDLE}", "changed"),
        (f"UPDATE audit_logs SET actor_id = NULL WHERE position = {MIDDLE}", "were changed"),
        (f"UPDATE audit_logs SET request_id = 'x' WHERE position = {MIDDLE}", "were changed"),
        (f"DELETE FROM audit_logs WHERE position = {MIDDLE}", "entries, but"),
        (f"DELETE FROM audit_seals WHERE last_position = {FIRST_SEAL}", "begins at"),
        (f"DELETE FROM audit_seals WHERE last_position = {SECOND_SEAL}", "begins at"),
        ("UPDATE audit_seals SET entries = entries + 1", "was not made by this installation"),
        ("UPDATE audit_seals SET key_hash = 'x'", "another secret key"),
        ("UPDATE audit_seals SET digest = seal", "was not made by this installation"),
        ("UPDATE audit_seals SET seal = digest", "was not made by this installation"),
    ],
)
@pytest.mark.requirement("A20", "F5")
def test_every_change_is_found(core: Core, trail: AuditTrail, statement: str, message: str) -> None:
    sealed(core, trail)
    tamper(core, statement)
    found = whole(trail)
    assert not found.ok
    assert any(message in fault.message for fault in found.faults), found.faults


def test_an_entry_that_is_inserted_under_a_seal_is_found(core: Core, trail: AuditTrail) -> None:
    sealed(core, trail)
    tamper(core, f"UPDATE audit_logs SET position = position + 1000000 WHERE position = {MIDDLE}")
    assert not whole(trail).ok


def test_a_changed_entry_can_not_be_sealed_anew_without_the_key(
    core: Core, trail: AuditTrail
) -> None:
    sealed(core, trail)
    head = whole(trail)
    with core.database.transaction() as connection:
        connection.execute(text(ALLOWED))
        connection.execute(text(f"UPDATE audit_logs SET actor = 'eve' WHERE position = {MIDDLE}"))
        connection.execute(text("DELETE FROM audit_seals"))
    thief = AuditTrail(core.database, "a guessed key")
    seal(thief)
    assert whole(thief).ok
    assert not whole(trail).ok
    assert whole(thief).head != head.head


def test_a_transaction_that_ends_late_is_not_passed_over(core: Core, trail: AuditTrail) -> None:
    """It got its position first: a seal must not go past it while it may still be written."""
    with core.database.transaction() as late:
        audit.record(late, core.actor, "test.late", [uuid4()])
        write(core)
        before = seal(trail)
        write(core)
        assert seal(trail) == 0
    assert before == 0
    assert seal(trail) >= 3
    assert whole(trail).ok


def test_several_may_seal_at_once(core: Core) -> None:
    write(core, 50)
    trails = [AuditTrail(core.database, KEY) for _ in range(4)]
    errors: list[BaseException] = []

    def work(each: AuditTrail) -> None:
        try:
            for _ in range(20):
                write(core)
                each.seal()
        except BaseException as error:  # noqa: BLE001 - shown by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(each,)) for each in trails]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    seal(trails[0])
    found = whole(trails[0])
    assert found.ok, found.faults
    assert found.entries >= 50 + 4 * 20


def test_a_long_trail_is_checked_a_page_at_a_time(core: Core, trail: AuditTrail) -> None:
    write(core, 2_500)
    seal(trail)
    pages = [trail.verify(seals=1)]
    while not pages[-1].complete:
        pages.append(trail.verify(after=pages[-1].last_position, seals=1))
    assert len(pages) == 3
    assert sum(page.entries for page in pages) >= 2_500
    assert all(page.ok for page in pages)


def age_seals(core: Core, count: int) -> None:
    tamper(
        core,
        "UPDATE audit_seals SET at = at - interval '10 days' WHERE last_position IN"
        f" (SELECT last_position FROM audit_seals ORDER BY 1 LIMIT {count})",
    )


def test_what_is_old_goes_with_its_seals_and_the_rest_still_holds(
    core: Core, trail: AuditTrail
) -> None:
    sealed(core, trail)
    head = whole(trail)
    age_seals(core, 2)
    assert trail.expire(days=5, limit=100) > 0
    assert trail.expire(days=5, limit=100) == 0
    found = whole(trail)
    assert found.ok, found.faults
    assert found.head == head.head
    seal(trail)
    assert whole(trail).ok
    age_seals(core, 5)
    trail.expire(days=5, limit=100)
    seal(trail)
    assert whole(trail).ok, "the newest seal stays, whatever its age"


@pytest.mark.parametrize(
    "forgery",
    [
        "DELETE FROM audit_logs WHERE action = 'audit_log.expire'",
        """UPDATE audit_logs SET details = details || '{"mac": ""}'
           WHERE action = 'audit_log.expire'""",
    ],
)
def test_a_removal_that_retention_did_not_make_is_found(
    core: Core, trail: AuditTrail, forgery: str
) -> None:
    sealed(core, trail)
    age_seals(core, 1)
    trail.expire(days=5, limit=100)
    assert whole(trail).ok
    tamper(core, forgery)
    assert not whole(trail).ok
