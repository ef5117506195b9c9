"""Ends and claims several attempts in one statement.

All rows are guarded one by one as in `attempt`: each by its own lease token. A row that somebody
else has locked is left out, so a group never waits for one of its rows; the caller ends such an
attempt alone.

What is claimed here runs without a slot: only executions of the agent versions that the caller
names, of those that are `first`. A worker that names none claims nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, TextClause

from celeriac.db import spans
from celeriac.db.executions.attempt import (
    CLAIM_COLUMNS,
    CLAIMED,
    PARTS,
    check_lease,
    claim_from_row,
    finishing,
    message_parameters,
    worker_parameters,
)
from celeriac.db.executions.eligible import first, held_for, share_parameters
from celeriac.db.executions.guards import kept_with_guards, not_counted
from celeriac.db.executions.pauses import give_back
from celeriac.domain.executions.fair_turns import Share
from celeriac.domain.executions.model import (
    Claim,
    Completed,
    Failed,
    HandedBack,
    Lease,
    Message,
    Retry,
    Stopped,
    WorkerIdentity,
)
from celeriac.domain.executions.states import Status, Transition


@dataclass(frozen=True, slots=True)
class MoreClaims:
    """Parameters for claiming executions that need no slot: at most one for each token."""

    worker: WorkerIdentity
    tokens: Sequence[UUID]
    agent_versions: Sequence[UUID]
    """The agents whose executions need no slot."""
    shares: Sequence[Share] = ()

    def parameters(self) -> dict[str, object]:
        """Return the parameters of the statement."""
        return {
            "next_tokens": list(self.tokens),
            "agent_versions": list(self.agent_versions),
            **worker_parameters(self.worker),
            **share_parameters(self.shares),
        }


def _more(queue: str, *, limit: str, tokens: str) -> str:
    """Return the parts that claim the `first` executions of `queue`; all arguments are SQL.

    `tokens` has the columns `token` and `place`, from 1 without gaps.
    """
    return (
        """, due AS ("""
        + first(
            queue,
            limit=limit,
            condition="EXISTS (SELECT FROM live)",
            columns="e.id, e.agent_version_id",
        )
        + """
), waiting AS (
    SELECT id, row_number() OVER () AS place FROM due
    WHERE agent_version_id = ANY (CAST(:agent_versions AS uuid[]))
), tokens AS ("""
        + tokens
        + """
), taken AS (
    UPDATE executions e
    SET status = {claim_to}, lease_token = tokens.token, event_seq = event_seq + 2,
        queued_at = now(), celery_task_id = {celery_task_id}, {take}
    FROM waiting JOIN tokens USING (place)
    WHERE place = array_position(ARRAY(SELECT id FROM waiting ORDER BY place), e.id)
      AND e.id = ANY (ARRAY(SELECT id FROM waiting))
    RETURNING {of_e}, e.event_seq, e.lease_token
), took AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, event_seq - 1, 'queued', attempt - 1,
           jsonb_build_object('queue', queue, 'celery_task_id', celery_task_id)
    FROM taken
    UNION ALL
    SELECT id, event_seq, 'started', attempt, jsonb_build_object('worker', CAST(:worker AS text))
    FROM taken
)"""
    )


_TOKENS = """
    SELECT token, place
    FROM unnest(CAST(:next_tokens AS uuid[])) WITH ORDINALITY AS t (token, place)
"""
_MOST = "cardinality(CAST(:next_tokens AS uuid[]))"

_CLAIM = kept_with_guards(
    CLAIMED
    + _more("(SELECT queue FROM claimed)", limit=_MOST, tokens=_TOKENS)
    + """
SELECT {of_claims}, claims.lease_token, EXISTS (SELECT FROM live), EXISTS (SELECT FROM pauses),
       set_config('synchronous_commit', 'off', true)
FROM (SELECT) AS one
LEFT JOIN (SELECT * FROM claimed UNION ALL SELECT * FROM taken) AS claims ON true
""",
    PARTS,
    claim=Transition.CLAIM,
)


def claim_group(
    connection: Connection, message: Message, token: UUID, more: MoreClaims
) -> tuple[Claim | None, list[Claim]]:
    """Claim the attempt that `message` names, and with it the `first` executions of its queue.

    Returns the claim of the message, as `claim` does, and the others. If the message is claimed in
    vain nothing else is claimed. Raises LeaseExpiredError if the worker has no valid lease.
    """
    parameters = {**message_parameters(message), "token": token, **more.parameters()}
    rows = connection.execute(_CLAIM, parameters).all()
    width = len(CLAIM_COLUMNS)
    check_lease(valid=rows[0][width + 1])
    claims = _claims(rows)
    if not claims and rows[0][width + 2]:
        give_back(connection, message)
    own = next((each for each in claims if each.lease.token == token), None)
    return own, [each for each in claims if each is not own]


_CLAIM_MORE = kept_with_guards(
    "WITH {live}"
    + _more(":next_queue", limit=_MOST, tokens=_TOKENS)
    + """
SELECT {of_taken}, taken.lease_token, set_config('synchronous_commit', 'off', true) FROM taken
""",
    PARTS,
    claim=Transition.CLAIM,
)


def claim_more(connection: Connection, queue: str, more: MoreClaims) -> list[Claim]:
    """Claim the `first` executions of `queue`; nothing if the worker has no valid lease.

    The commit doesn't wait for the disk, as that of `claim`.
    """
    parameters = {"next_queue": queue, **more.parameters()}
    return _claims(connection.execute(_CLAIM_MORE, parameters).all())


def _claims(rows: Sequence[Sequence[Any]]) -> list[Claim]:
    found = (claim_from_row(row, row[len(CLAIM_COLUMNS)]) for row in rows)
    return [each for each in found if each is not None]


_GIVEN = """
WITH given AS (
    SELECT * FROM unnest(
        CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:lease_tokens AS uuid[]),
        CAST(:types AS text[]), CAST(:data AS text[]), CAST(:results AS text[]),
        CAST(:truncated AS boolean[]), CAST(:empties AS boolean[]), CAST(:codes AS text[]),
        CAST(:error_types AS text[]),
        CAST(:messages AS text[]), CAST(:details AS text[]), CAST(:delays AS double precision[]),
        CAST(:retries AS int[]), CAST(:fingerprints AS text[]))
    AS g (id, attempt, token, type, data, result, truncated, empty, code, error_type, message,
          details, delay, retries, fingerprint)
), locked AS (
    SELECT e.id FROM executions e
    JOIN given g ON {is_g} AND e.attempt = g.attempt
    WHERE {given_e} AND e.status IN ({end_from})
    FOR NO KEY UPDATE OF e SKIP LOCKED
)"""

_LOGGED = """
    WHERE {is_g} AND e.id = ANY (ARRAY(SELECT id FROM locked)) AND {within_e}
    RETURNING {ended_columns}, 'worker' AS ended_by, NULL::jsonb AS ended_why, e.event_seq, g.type,
              g.data, g.result, g.details
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, event_seq, {type}, attempt, CAST(data AS json) FROM done
), produced AS (
    SELECT id, CAST(result AS json) AS result, CAST(details AS json) AS error_details
    FROM done
    WHERE {kept_if}
){kept}{ended}"""


def _logged(type_: str, kept_if: str) -> str:
    """Return the rest of an UPDATE of ends, and the parts that follow it; all SQL."""
    return _LOGGED.replace("{type}", type_).replace("{kept_if}", kept_if)


_END = (
    _GIVEN
    + """, done AS (
    UPDATE executions e
    SET status = {end_to}, completed_at = now(), event_seq = event_seq + 1,
        truncated = g.truncated, no_op = g.empty AND {did_nothing}, error_code = g.code,
        error_type = g.error_type, error_message = g.message, error_fingerprint = g.fingerprint
    FROM given g"""
    # an earlier attempt may have left details
    + _logged("type", "attempt > 1 OR result IS NOT NULL OR details IS NOT NULL")
)

_RELEASE = (
    _GIVEN
    + """, done AS (
    UPDATE executions e
    SET status = CASE WHEN cancel_requested_at IS NULL THEN {end_to} ELSE {stop_to} END,
        completed_at = CASE WHEN cancel_requested_at IS NULL THEN NULL ELSE now() END,
        available_at = now() + make_interval(secs => g.delay),
        held = CASE WHEN cancel_requested_at IS NULL THEN {held} END,
        retry_count = retry_count + g.retries, event_seq = event_seq + 1,
        error_code = coalesce(g.code, error_code),
        error_type = coalesce(g.error_type, e.error_type),
        error_message = coalesce(g.message, error_message)
    FROM given g"""
    + _logged("CASE status WHEN {stop_to} THEN 'cancelled' ELSE type END", "details IS NOT NULL")
)

_AND_CLAIM = (
    ", {live}"
    + _more(":next_queue", limit=f"least({_MOST}, (SELECT count(*) FROM done))", tokens=_TOKENS)
    + """
SELECT done.id, done.status, {made_due}, {of_taken}, taken.lease_token
FROM (SELECT id, status, row_number() OVER () AS place FROM done) AS done
LEFT JOIN (SELECT *, row_number() OVER () AS place FROM taken) AS taken USING (place)
"""
)


_ALONE = "\nSELECT id, status, {made_due} FROM done"
_CONDITION = "AND e.status IN ({end_from})"


def _variants(statement: str, **transitions: Transition) -> Mapping[tuple[bool, bool], TextClause]:
    """Return a finishing statement by whether its executions are counted, and whether it claims."""
    parts = {
        **PARTS,
        "held": held_for("g.delay"),
        # not e.id = g.id: see `celeriac.db.plans`
        "is_g": "e.lease_token = g.token AND e.id IS NOT DISTINCT FROM g.id",
        "given_e": spans.given("e.id"),
        "within_e": spans.within("e.id"),
    }
    alone, claiming = statement + _ALONE, statement + _AND_CLAIM
    narrow = partial(not_counted, condition=_CONDITION)
    both = {**transitions, "claim": Transition.CLAIM}
    return {
        (True, False): kept_with_guards(alone, parts, **transitions),
        (True, True): kept_with_guards(claiming, parts, **both),
        (False, False): kept_with_guards(narrow(alone), parts, **transitions),
        (False, True): kept_with_guards(narrow(claiming), parts, **both),
    }


_STATEMENTS = {
    Transition.COMPLETE: _variants(_END, end=Transition.COMPLETE),
    Transition.FAIL: _variants(_END, end=Transition.FAIL),
    Transition.STOP: _variants(_END, end=Transition.STOP),
    Transition.RETRY: _variants(_RELEASE, end=Transition.RETRY, stop=Transition.STOP),
}

Ending = Completed | Failed | Stopped | Retry | HandedBack
"""The outcomes that can be written together: parking has statements of its own."""


@dataclass(frozen=True, slots=True)
class EndValues:
    """An outcome as it is stored."""

    lease: Lease
    transition: Transition
    values: dict[str, object]

    @property
    def size(self) -> int:
        """The length of its texts in characters."""
        return sum(len(value) for value in self.values.values() if isinstance(value, str))


def end_values(lease: Lease, outcome: Ending) -> EndValues:
    """Return how an outcome is stored. Raises what `storable` raises."""
    return EndValues(lease, *finishing(outcome))


def transition_of(outcome: Ending) -> Transition:
    """Return the transition of an outcome; those with the same one can be written together."""
    match outcome:
        case Completed():
            return Transition.COMPLETE
        case Failed():
            return Transition.FAIL
        case Stopped():
            return Transition.STOP
    return Transition.RETRY


@dataclass(frozen=True, slots=True)
class GroupFinished:
    """What a statement has stored and claimed."""

    status: Mapping[UUID, Status]
    """The stored status by execution."""
    claims: Sequence[Claim] = ()
    made_due: bool = False
    """Whether the ends have made other executions due."""


def finish_group(
    connection: Connection,
    ends: Sequence[EndValues],
    queue: str = "",
    more: MoreClaims | None = None,
    *,
    counted: bool = True,
) -> GroupFinished:
    """Store ends of the same transition, and claim the `first` executions of `queue`.

    At most as many are claimed as were stored. What is missing was not written: its lease is lost,
    an earlier try has stored it, somebody else has locked its row, or something counts its end and
    `counted` is false. See `finish` for the rest.
    """
    (transition,) = {each.transition for each in ends}
    statement = _STATEMENTS[transition][counted, more is not None]
    parameters = _given(ends)
    if more is None:
        return _finished(connection.execute(statement, parameters).all())
    parameters |= {"next_queue": queue, **more.parameters()}
    rows = connection.execute(statement, parameters).all()
    return replace(_finished(rows), claims=_claims([row[3:] for row in rows]))


def _finished(rows: Sequence[Sequence[Any]]) -> GroupFinished:
    return GroupFinished(
        {row[0]: Status(row[1]) for row in rows}, made_due=bool(rows) and bool(rows[0][2])
    )


_VALUES = {
    "types": "type",
    "data": "data",
    "results": "result",
    "truncated": "truncated",
    "empties": "empty",
    "codes": "code",
    "error_types": "error_type",
    "messages": "message",
    "details": "details",
    "fingerprints": "fingerprint",
}


def _given(ends: Sequence[EndValues]) -> dict[str, object]:
    return {
        **spans.of([each.lease.execution_id for each in ends]),
        "attempts": [each.lease.attempt for each in ends],
        "lease_tokens": [each.lease.token for each in ends],
        "delays": [each.values.get("delay", 0.0) for each in ends],
        "retries": [each.values.get("retries", 0) for each in ends],
        **{name: [each.values[key] for each in ends] for name, key in _VALUES.items()},
    }
