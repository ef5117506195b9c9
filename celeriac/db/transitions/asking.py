"""Questions to people as parts of statements: stored with their events, withdrawn at an end."""

from collections.abc import Mapping, Sequence

from celeriac.domain.approval import Question
from celeriac.kit.ids import uuid7
from celeriac.kit.jsontypes import JsonObject, JsonValue, storable, storable_text

_LONGEST_TITLE = 4_000
_LONGEST_TEXT = 2_000
_LONGEST_ARGUMENTS = 200_000

FRESH = """
fresh AS (
    SELECT q.*, row_number() OVER (ORDER BY q.place) AS number
    FROM unnest(CAST(:question_ids AS uuid[]), CAST(:keys AS text[]), CAST(:kinds AS text[]),
                CAST(:titles AS text[]), CAST(:tools AS text[]), CAST(:arguments AS text[]),
                CAST(:schemas AS text[]), CAST(:on_expiries AS text[]),
                CAST(:defaults AS text[]), CAST(:expiries AS double precision[]))
         WITH ORDINALITY
         AS q (id, key, kind, title, tool, arguments, schema, on_expiry, default_value, expires,
               place)
    WHERE NOT EXISTS (SELECT FROM approvals a WHERE a.execution_id = :id AND a.key = q.key)
)"""
"""Begins a WITH: those questions of the execution `:id` that are not known yet.

Only the holder of its lease asks in its name, one statement after the other, so that what is fresh
here is fresh when it is stored.
"""

FRESH_COUNT = "(SELECT count(*) FROM fresh)"
"""How many numbers their events take."""

ASKED = """
, asked AS (
    INSERT INTO approvals (id, execution_id, task_id, owner_id, attempt, key, kind, title, tool,
                           arguments, schema, on_expiry, "default", expires_at)
    SELECT q.id, done.id, done.task_id, done.owner_id, done.attempt, q.key, q.kind, q.title,
           q.tool, q.arguments::json, q.schema::json, q.on_expiry, q.default_value::jsonb,
           now() + make_interval(secs => q.expires)
    FROM done, fresh AS q
    WHERE done.asks
), asked_events AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT done.id, done.first_number + q.number, 'approval_asked', done.attempt,
           jsonb_build_object('approval_id', q.id, 'kind', q.kind, 'title', q.title,
                              'expires_at', now() + make_interval(secs => q.expires))
    FROM done, fresh AS q
    WHERE done.asks
)"""
"""Goes on after `FRESH` and an UPDATE `done` of the execution.

That has counted `event_seq` up by `FRESH_COUNT` at least and returns, besides the row's own
columns, `asks` (whether they are asked at all) and `first_number` (the number before theirs).
"""

WITHDRAWN = """
, withdrawn AS (
    UPDATE approvals a SET status = 'withdrawn'
    FROM moved
    WHERE a.execution_id = moved.id AND a.status = 'open'
      AND moved.status IN ('completed', 'failed', 'cancelled')
)"""
"""Continues a WITH whose part `moved` has ended executions: nobody needs to answer any more."""


def question_columns(questions: Sequence[Question]) -> Mapping[str, list[object]]:
    """Return questions as the arrays that `FRESH` unnests; of several with one key the first."""
    first: dict[str, Question] = {}
    for question in questions:
        first.setdefault(question.key, question)
    asked = list(first.values())
    return {
        "question_ids": [uuid7() for _ in asked],
        "keys": [storable_text(q.key) for q in asked],
        "kinds": [q.kind for q in asked],
        "titles": [clipped(storable_text(q.title), _LONGEST_TITLE) for q in asked],
        "tools": [None if q.tool is None else storable_text(q.tool) for q in asked],
        "arguments": [storable(shown(q.arguments)) for q in asked],
        "schemas": [None if q.schema is None else storable(q.schema) for q in asked],
        "on_expiries": [q.on_expiry for q in asked],
        "defaults": [storable(q.default) for q in asked],
        "expiries": [q.expires_seconds for q in asked],
    }


def shown(arguments: JsonObject) -> JsonObject:
    """Return arguments as people are shown them: long texts of large ones are clipped.

    What the agent calls its tool with is its own; this is for reading.
    """
    if len(storable(arguments)) <= _LONGEST_ARGUMENTS:
        return arguments
    small: JsonObject = _clip(arguments)
    if len(storable(small)) <= _LONGEST_ARGUMENTS:
        return small
    return {"clipped": clipped(storable(small), _LONGEST_ARGUMENTS // 2)}


def clipped(text: str, length: int) -> str:
    """Return `text` cut to `length` characters, saying how many are left out."""
    if len(text) <= length:
        return text
    return f"{text[:length]}… ({len(text) - length:,} characters more)"


def _clip(value: JsonValue) -> JsonValue:
    match value:
        case str():
            return clipped(value, _LONGEST_TEXT)
        case Mapping():
            return {key: _clip(each) for key, each in value.items()}
        case list() | tuple():
            return [_clip(each) for each in value]
    return value
