"""What doctor says of what grows, ages and ends: tables, keys, and the jobs of the keeper."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from celeriac.db import diagnosis
from celeriac.domain.doctor import Code, Finding, LastingKeys, ProviderAnswer, failed, ok, warning
from celeriac.domain.operations import JobRow
from celeriac.kit.units import duration
from celeriac.kit.words import counted

DEAD_ROWS = 100_000
"""Autovacuum is set to begin at a few thousand for what changes much."""

OLD_TRANSACTIONS = 1_000_000_000
"""PostgreSQL refuses writes at two thousand million, and cleans up from two hundred million on."""

KEEPER_SECONDS = 180.0
EXPIRY_DAYS = 7
USED_DAYS = 30
_MOST_UNKNOWN = 100
_MOST_WAITING = 10_000
_SHOWN = 3


def judge_tables(found: Sequence[diagnosis.DeadRows], *, vacuums: bool) -> Finding:
    """Judge tables that vacuum does not clean up."""
    if not vacuums:
        return warning(
            Code.VACUUM,
            "autovacuum is off: tables only grow",
            "Set autovacuum to on in PostgreSQL.",
        )
    if not found:
        return ok(Code.VACUUM, "no table has more dead rows than live ones")
    named = ", ".join(
        f"{each.table} ({each.dead:,} dead, {each.live:,} live, {_vacuumed(each)})"
        for each in found[:_SHOWN]
    )
    return warning(
        Code.VACUUM,
        f"{counted(len(found), 'table')} with more dead rows than live ones: {named}",
        "End old transactions, and give autovacuum more to do (autovacuum_max_workers, "
        "autovacuum_vacuum_cost_limit); VACUUM (ANALYZE) cleans up now.",
    )


def _vacuumed(each: diagnosis.DeadRows) -> str:
    if each.vacuumed_seconds is None:
        return "never vacuumed"
    return f"vacuumed {duration(each.vacuumed_seconds)} ago"


def judge_transactions(age: int) -> Finding:
    """Judge how far PostgreSQL is from the end of its transaction ids."""
    message = f"the oldest row is {age:,} transactions old"
    if age < OLD_TRANSACTIONS:
        return ok(Code.TRANSACTION_IDS, message)
    return failed(
        Code.TRANSACTION_IDS,
        f"{message}; PostgreSQL refuses writes at two thousand million",
        "Run VACUUM (FREEZE) on the database; see why autovacuum does not end.",
    )


def judge_keeper(jobs: Sequence[JobRow]) -> Finding:
    """Judge whether any job of the keeper has ended lately."""
    if not jobs:
        return warning(Code.KEEPER, "no job of it has ever ended", "Start it: `celeriac beat`.")
    age = min((each.read_at - each.ended_at).total_seconds() for each in jobs)
    if age > KEEPER_SECONDS:
        return failed(
            Code.KEEPER,
            f"no job of it has ended for {duration(age)}",
            "Start it: `celeriac beat`. If one runs, see its log.",
        )
    late = [each.name for each in jobs if each.late]
    if late:
        return warning(
            Code.KEEPER, f"late: {', '.join(late)}", "`celeriac maintenance` shows its jobs."
        )
    return ok(Code.KEEPER, f"its last job ended {duration(max(age, 0.0))} ago")


def judge_expiring(keys: Sequence[tuple[str, str, datetime]]) -> Finding:
    """Judge the API keys that are in use and end soon."""
    if not keys:
        return ok(Code.EXPIRING_KEYS, f"none in use ends within {EXPIRY_DAYS} days")
    named = ", ".join(
        f"{name!r} of {user} ({until:%Y-%m-%d %H:%M} UTC)" for name, user, until in keys[:_SHOWN]
    )
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return warning(
        Code.EXPIRING_KEYS,
        f"{counted(len(keys), 'key')} in use will end within {EXPIRY_DAYS} days: {named}{more}",
        "Make new ones with `celeriac keys create`, and give them to their programs.",
    )


def judge_lasting(found: LastingKeys) -> Finding:
    """Judge keys that never expire, and messages that nobody reads."""
    where = f"{found.address} has {counted(found.keys, 'key')}"
    if found.waiting > _MOST_WAITING:
        return warning(
            Code.REDIS_KEYS,
            f"{where}; nobody reads {counted(found.waiting, 'message')} of Celery's own",
            "Stop what asked for them and ended (Flower, `celery events`), then delete the lists "
            "that begin with celeryev or end with reply.celery.pidbox.",
        )
    if len(found.unknown) > _MOST_UNKNOWN:
        named = ", ".join(found.unknown[:_SHOWN])
        return warning(
            Code.REDIS_KEYS,
            f"{where}; of {found.sampled:,} that were looked at, {len(found.unknown):,} never "
            f"expire and are not Celeriac's: {named}, …",
            "Give other programs another server, or let their keys expire: Redis fills up.",
        )
    return ok(Code.REDIS_KEYS, f"{where}; those that were looked at are known, or expire")


def judge_providers(answers: Sequence[ProviderAnswer]) -> Iterator[Finding]:
    """Judge whether the providers of models answer at all."""
    if not answers:
        yield ok(Code.PROVIDERS, "none is set up that is not on this machine")
    for each in answers:
        if each.error is None:
            yield ok(Code.PROVIDERS, f"{each.name} ({each.host}) answers with {each.status}")
        else:
            yield failed(
                Code.PROVIDERS,
                f"{each.name} ({each.host}) does not answer: {each.error}",
                "Correct its address in the settings, or let this machine reach it.",
            )
