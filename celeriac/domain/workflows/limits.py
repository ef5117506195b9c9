"""Limits of runs: their keys, and which runs their policies end (pure).

A run has a slot of each of its keys while it runs. It gets all of them at once, or none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from celeriac.domain.errors import ExpressionError, InputInvalidError
from celeriac.domain.workflows.expressions import compiled
from celeriac.domain.workflows.expressions.values import kind_of
from celeriac.domain.workflows.model import Limit, LimitCount, LimitPolicy
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.kit.words import counted

MAX_KEY = 500
"""Characters of a key."""


class SlotState(StrEnum):
    """What a run has of a limit."""

    WAITING = "waiting"
    """It needs a slot to begin, or to go on."""
    HELD = "held"
    """It has a slot."""
    GIVEN_BACK = "given_back"
    """It has given its slot back while it waits for an approval or another run."""


class LimitEnd(StrEnum):
    """The error code of a run that a limit has cancelled."""

    LIMIT_REACHED = "limit_reached"
    """`cancel_new`: there was no slot for it."""
    REPLACED = "replaced"
    """`cancel_running`: a newer run got its slot."""
    SUPERSEDED = "superseded"
    """`keep_latest`: a newer run waits in its place."""
    DEADLOCK = "limit_deadlock"
    """Runs waited for each other's slots, and it was the youngest of them."""


@dataclass(frozen=True, slots=True)
class KeyedLimit:
    """A limit of a run, with its key."""

    key: str
    max: int
    policy: LimitPolicy
    count: LimitCount


def keys_of(limits: Sequence[Limit], given: JsonObject, run: JsonObject) -> list[KeyedLimit]:
    """Return the limits of a run with the keys for its input, and for what it is (`run`).

    Of limits with the same key the smallest counts. Raises InputInvalidError for a key that can't
    be computed, is no text or number, or is too long.
    """
    scope: Mapping[str, JsonValue] = {"input": given, "run": run}
    found: dict[str, KeyedLimit] = {}
    for index, limit in enumerate(limits):
        key = _key(index, limit, scope)
        other = found.get(key)
        if other is None or limit.max < other.max:
            found[key] = KeyedLimit(key, limit.max, limit.policy, limit.count)
    return sorted(found.values(), key=lambda each: each.key)


def _key(index: int, limit: Limit, scope: Mapping[str, JsonValue]) -> str:
    at = f"limits.{index}.key"
    try:
        value = compiled(limit.key).value(scope)
    except ExpressionError as error:
        raise InputInvalidError(
            f"The key of a limit can't be computed for this input: {error.message}", field=at
        ) from error
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputInvalidError(
            f"The key of a limit must be a text or a number; {limit.key} is {kind_of(value)} for "
            "this input.",
            field=at,
        )
    key = str(value).removesuffix(".0") if isinstance(value, float) else str(value)
    if len(key) > MAX_KEY or "\x00" in key:
        raise InputInvalidError(
            f"The key of a limit has at most {MAX_KEY} characters, and none of them is NUL; this "
            f"one has {counted(len(key), 'character')}.",
            field=at,
        )
    return key


@dataclass(frozen=True, slots=True)
class SlotUser:
    """A run that has a slot of a key, or waits for one."""

    run_id: UUID
    state: SlotState
    policy: LimitPolicy
    max: int
    begun: bool
    """Whether it has run before, and needs a slot to go on."""
    cancellable: bool
    """Whether it may be cancelled, and is not cancelled yet."""


@dataclass(frozen=True, slots=True)
class Ending:
    """A run that a limit cancels, and the run that is the reason."""

    run_id: UUID
    why: LimitEnd
    because_of: UUID


def endings(held: Sequence[SlotUser], waiting: Sequence[SlotUser]) -> list[Ending]:
    """Return the runs of one key that its policies cancel.

    `held` have a slot, in the order of their ids; `waiting` wait for one, in the order in which
    they get it. Ids are ordered by time. A run that is being cancelled or compensated does not do
    the work of others: they aren't cancelled because of it.
    """
    found: dict[UUID, Ending] = {}
    # one that is cancelled before it has begun gets no slot
    waiting = [each for each in waiting if each.begun or each.cancellable]
    for each in _crowded_out(held, waiting):
        found.setdefault(each.run_id, each)
    for each in _replaced(held, [one for one in waiting if one.run_id not in found]):
        found.setdefault(each.run_id, each)
    return list(found.values())


def _crowded_out(held: Sequence[SlotUser], waiting: Sequence[SlotUser]) -> list[Ending]:
    """Return those that wait although their policy lets none, or only the newest, wait."""
    found = []
    for place, each in enumerate(waiting):
        if each.begun or not each.cancellable or place < each.max - len(held):
            continue
        if each.policy is LimitPolicy.CANCEL_NEW:
            holders = [*held, *waiting[:place]]
            if holders:
                found.append(Ending(each.run_id, LimitEnd.LIMIT_REACHED, holders[0].run_id))
        elif each.policy is LimitPolicy.KEEP_LATEST:
            newest = max(one.run_id for one in waiting if not one.begun)
            if newest > each.run_id:
                found.append(Ending(each.run_id, LimitEnd.SUPERSEDED, newest))
    return found


def _replaced(held: Sequence[SlotUser], waiting: Sequence[SlotUser]) -> list[Ending]:
    """Return the oldest, as many as are too many for the newest that cancels what runs."""
    newcomers = [
        each for each in waiting if each.policy is LimitPolicy.CANCEL_RUNNING and each.cancellable
    ]
    if not newcomers:
        return []
    newest = max(newcomers, key=lambda each: each.run_id)
    live = sorted(each.run_id for each in (*held, *waiting) if each.cancellable)
    return [
        Ending(run_id, LimitEnd.REPLACED, newest.run_id)
        for run_id in live[: max(0, len(live) - newest.max)]
        if run_id < newest.run_id
    ]


def said(ending: Ending, key: str) -> str:
    """Return the message of a run that a limit cancels."""
    other = ending.because_of
    match ending.why:
        case LimitEnd.LIMIT_REACHED:
            return f"The limit {key!r} is reached: the run {other} has the slot."
        case LimitEnd.REPLACED:
            return f"The newer run {other} has the same limit {key!r}, and runs instead."
        case LimitEnd.SUPERSEDED:
            return f"The newer run {other} has the same limit {key!r}, and waits instead."
        case LimitEnd.DEADLOCK:
            return (
                f"Runs wait for each other: this one for a slot of the limit {key!r}, which the "
                f"run {other} keeps to its end, and runs below that one for slots that runs above "
                "this one keep. Give the workflows at the top the limits of those below them, or "
                "use count: running."
            )


@dataclass(frozen=True, slots=True)
class RunLimit:
    """A limit of a run that has not ended, and who has its slots."""

    key: str
    max: int
    policy: LimitPolicy
    count: LimitCount
    state: SlotState
    used: int
    """How many runs have a slot, counted up to `max`."""
    holders: Sequence[UUID]
    """The oldest of them, five at most."""
