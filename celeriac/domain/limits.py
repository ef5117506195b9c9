"""Limits by key: how many with the same key run at once, and what happens to the others (pure).

Executions of tasks and runs of workflows have them. What has limits gets a slot of each of its keys
at once, or none.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, Final, Self
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from celeriac.domain.base import Strict
from celeriac.domain.errors import ExpressionError, InputInvalidError
from celeriac.domain.expressions import (
    MAX_CHARACTERS,
    ExpressionSyntaxError,
    compiled,
)
from celeriac.domain.expressions.values import kind_of
from celeriac.domain.limit_policies import LimitCount, LimitPolicy
from celeriac.domain.schemas.fields import schema_lacks
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.kit.text import clip
from celeriac.kit.words import counted

MOST_A_SECOND: Final = 1_000_000
LONGEST_REFILL: Final = 100 * 366 * 86_400
"""Seconds in which the burst of a rate must be complete again: PostgreSQL has no later times."""

MAX_KEY = 500
"""Characters of a key."""

RATE_PREFIX: Final = "rate:"
"""With which the keys of rates begin; those of other limits must not."""

LIMIT_PREFIX: Final = "limit:"
"""With which the keys of a workspace's own limits begin; those of tasks must not."""

KEY_ROOTS: Final = ("variables", "labels", "task", "user", "workspace")
"""What the key of a task's limit may name: variables, labels, the task's name, and two ids."""

RUN_KEY_ROOTS: Final = ("input", "run")
"""What the key of a limit of runs may name: the input of a run, and what it is."""

RUN_KEY_FIELDS: Final = ("workflow", "version", "owner", "workspace")
"""The fields of `run` that it may have: they are known before the run exists."""

_SHOWN = 60


class LimitEnd(StrEnum):
    """The error code of what a limit has cancelled."""

    LIMIT_REACHED = "limit_reached"
    """`cancel_new`: there was no slot for it."""
    REPLACED = "replaced"
    """`cancel_running`: a newer one got its slot."""
    SUPERSEDED = "superseded"
    """`keep_latest`, debounce: a newer one waits in its place."""
    DEADLOCK = "limit_deadlock"
    """Runs waited for each other's slots, and it was the youngest of them."""


class ExecutionSlot(StrEnum):
    """What an execution has of a limit. It waits in the line of one of its keys at most."""

    NONE = "none"
    """No slot, and it needs none now: it is not due, or waits for something else."""
    WAITING = "waiting"
    """It waits in the line of this key."""
    ELSEWHERE = "elsewhere"
    """It needs a slot, and waits in the line of another key."""
    HELD = "held"
    """It has a slot."""


def check_key(text: str, *, roots: Sequence[str] = KEY_ROOTS) -> str:
    """Return the expression of a key over `roots`. Raises ValueError, which names its fault."""
    for message in _key_faults(text, roots):
        raise ValueError(message)
    return text


def _key_faults(text: str, roots: Sequence[str]) -> Iterator[str]:
    if text.lstrip().startswith(("${{", "{{")):
        yield "it is an expression: write it without {{ }}"
        return
    try:
        expression = compiled(text)
    except ExpressionSyntaxError as error:
        yield f"at {error.offset + 1}: {error.message}"
        return
    if expression.kind not in {None, "string", "number"}:
        yield "a key must be a text or a number"
    for reference in expression.references:
        root, *rest = reference.path
        if root not in roots:
            yield _unknown(root, roots, "there is no {} here")
        elif root == "run" and (not rest or rest[0] not in RUN_KEY_FIELDS):
            yield _unknown(rest[0] if rest else "", RUN_KEY_FIELDS, "run has no {} here")


def check_fields(key: str, root: str, schema: JsonObject, whose: str) -> None:
    """Raise ValueError if a valid key names a field of `root` that `schema` forbids.

    Such a key could not be computed for any value. `whose` names the values in the message.
    """
    for reference in compiled(key).references:
        if reference.path[0] == root:
            message = schema_lacks(schema, reference.path[1:], whose)
            if message is not None:
                raise ValueError(f"at {reference.offset + 1}: {message}")


def _unknown(name: str, known: Sequence[str], said: str) -> str:
    near = get_close_matches(name, known, 1)
    cure = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    return f"{said.format(clip(name, _SHOWN))}; {cure}"


KeyText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_CHARACTERS)]

KeyExpression = Annotated[KeyText, AfterValidator(check_key)]
"""A CEL expression over `KEY_ROOTS` that gives a text or a number."""


class ConcurrencyLimit(Strict):
    """How many executions with the same key may run at the same time."""

    key: KeyExpression
    """Executions of all tasks of the workspace that have the same key share its slots."""
    max: int = Field(ge=1, le=1_000_000)
    policy: LimitPolicy = Field(default=LimitPolicy.QUEUE, strict=False)


def check_rate(most: int, seconds: float, burst: int | None) -> None:
    """Raise ValueError for a rate with which no time could be computed."""
    if most > MOST_A_SECOND * seconds:
        raise ValueError(
            f"a rate has at most {MOST_A_SECOND:,} a second: lower max or raise seconds"
        )
    if (burst or 1) * seconds > LONGEST_REFILL * most:
        raise ValueError(
            "so large a burst would not be complete again in 100 years: lower burst or seconds"
        )


class RateLimit(Strict):
    """How many executions with the same key may begin in a time."""

    key: KeyExpression
    """Executions of all tasks of the workspace that have the same key count together."""
    max: int = Field(ge=1, le=1_000_000)
    seconds: float = Field(default=1.0, gt=0, le=366 * 86_400)
    burst: int | None = Field(default=None, ge=1, le=1_000_000)
    """How many may begin at once after a rest; by default those of one second, or one."""

    @model_validator(mode="after")
    def _is_computable(self) -> Self:
        check_rate(self.max, self.seconds, self.burst)
        return self

    @property
    def interval(self) -> float:
        """The seconds from one begin to the next, on average."""
        return self.seconds / self.max

    @property
    def at_once(self) -> int:
        """How many may begin at once after a rest."""
        return math.ceil(1 / self.interval) if self.burst is None else self.burst


class Debounce(Strict):
    """Lets an execution wait for newer ones with the same key, each of which replaces it."""

    key: KeyExpression
    """Of the executions of this task."""
    seconds: float = Field(gt=0, le=86_400)
    """How long it waits after the last submission."""
    max_seconds: float | None = Field(default=None, gt=0, le=7 * 86_400)
    """How long it waits after the first submission at most."""

    @model_validator(mode="after")
    def _longest_last(self) -> Self:
        if self.max_seconds is not None and self.max_seconds < self.seconds:
            raise ValueError("max_seconds must not be less than seconds: raise it or lower seconds")
        return self

    def delay(self, waited: float) -> float:
        """Return how long the newest waits, `waited` seconds after the first submission."""
        if self.max_seconds is None:
            return self.seconds
        return max(0.0, min(self.seconds, self.max_seconds - waited))


@dataclass(frozen=True, slots=True)
class KeyedLimit:
    """A limit with its key."""

    key: str
    max: int
    policy: LimitPolicy
    count: LimitCount = LimitCount.RUNNING
    interval: float | None = None
    """Of a rate: the seconds from one begin to the next; its key begins with `RATE_PREFIX`."""
    burst: int | None = None
    limit_id: UUID | None = None
    """Of a limit of the workspace: its row, which has the numbers in effect."""


def strictest(limits: Sequence[KeyedLimit]) -> list[KeyedLimit]:
    """Return the limits in the order of their keys; of those with the same key the smallest."""
    found: dict[str, KeyedLimit] = {}
    for limit in limits:
        other = found.get(limit.key)
        if other is None or _stricter(limit, other):
            found[limit.key] = limit
    return sorted(found.values(), key=lambda each: each.key)


def _stricter(limit: KeyedLimit, other: KeyedLimit) -> bool:
    if limit.interval is not None and other.interval is not None:
        return limit.interval > other.interval
    return limit.max < other.max


def task_limits(
    concurrency: Sequence[ConcurrencyLimit],
    rates: Sequence[RateLimit],
    scope: Mapping[str, JsonValue],
) -> list[KeyedLimit]:
    """Return the limits of an execution with their keys, which `scope` has the roots of.

    Raises InputInvalidError; see `key_of`.
    """
    found = []
    for index, each in enumerate(concurrency):
        field = f"concurrency.{index}.key"
        key = key_of(each.key, scope, field)
        for prefix, others in ((RATE_PREFIX, "rates"), (LIMIT_PREFIX, "limits of the workspace")):
            if key.startswith(prefix):
                raise InputInvalidError(
                    f"The key of a limit must not begin with {prefix}: those of {others} do.",
                    field=field,
                )
        found.append(KeyedLimit(key, each.max, each.policy))
    for index, rate in enumerate(rates):
        key = RATE_PREFIX + key_of(rate.key, scope, f"rates.{index}.key")
        found.append(
            KeyedLimit(key, rate.max, LimitPolicy.QUEUE, interval=rate.interval, burst=rate.at_once)
        )
    return strictest(found)


def key_of(expression: str, scope: Mapping[str, JsonValue], field: str) -> str:
    """Return the key that an expression gives.

    Raises InputInvalidError, which names `field`, for a key that can't be computed, is no text or
    number, or is too long.
    """
    try:
        value = compiled(expression).value(scope)
    except ExpressionError as error:
        raise InputInvalidError(
            f"The key of a limit can't be computed for this input: {error.message}", field=field
        ) from error
    return key_text(value, expression, field)


def key_text(value: JsonValue, expression: str, field: str, *, of: str = "a limit") -> str:
    """Return the key that the value of `expression` is. Raises InputInvalidError; see `key_of`.

    The message says that it is the key of `of`.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputInvalidError(
            f"The key of {of} must be a text or a number; {expression} is {kind_of(value)} for "
            "this input.",
            field=field,
        )
    key = str(value).removesuffix(".0") if isinstance(value, float) else str(value)
    if len(key) > MAX_KEY or "\x00" in key:
        raise InputInvalidError(
            f"The key of {of} has at most {MAX_KEY} characters, and none of them is NUL; this "
            f"one has {counted(len(key), 'character')}.",
            field=field,
        )
    return key


@dataclass(frozen=True, slots=True)
class SlotUser:
    """What has a slot of a key, or waits for one."""

    id: UUID
    has_slot: bool
    policy: LimitPolicy
    max: int
    begun: bool
    """Whether it has run before, and needs a slot to go on."""
    cancellable: bool
    """Whether it may be cancelled, and is not cancelled yet."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What a limit cancels, and what is the reason."""

    id: UUID
    why: LimitEnd
    because_of: UUID


def endings(held: Sequence[SlotUser], waiting: Sequence[SlotUser]) -> list[Ending]:
    """Return what the policies of one key cancel.

    `held` have a slot, in the order of their ids; `waiting` wait for one, in the order in which
    they get it. Ids are ordered by time. What is being cancelled or compensated does not do the
    work of others: they aren't cancelled because of it.
    """
    found: dict[UUID, Ending] = {}
    # one that is cancelled before it has begun gets no slot
    waiting = [each for each in waiting if each.begun or each.cancellable]
    for each in _crowded_out(held, waiting):
        found.setdefault(each.id, each)
    for each in _replaced(held, [one for one in waiting if one.id not in found]):
        found.setdefault(each.id, each)
    return list(found.values())


def _crowded_out(held: Sequence[SlotUser], waiting: Sequence[SlotUser]) -> list[Ending]:
    """Return those that wait although their policy lets none, or only the newest, wait."""
    found = []
    newest = max((one.id for one in waiting if not one.begun), default=None)
    for place, each in enumerate(waiting):
        if each.begun or not each.cancellable or place < each.max - len(held):
            continue
        if each.policy is LimitPolicy.CANCEL_NEW:
            holders = [*held, *waiting[:place]]
            if holders:
                found.append(Ending(each.id, LimitEnd.LIMIT_REACHED, holders[0].id))
        elif each.policy is LimitPolicy.KEEP_LATEST and newest is not None and newest > each.id:
            found.append(Ending(each.id, LimitEnd.SUPERSEDED, newest))
    return found


def _replaced(held: Sequence[SlotUser], waiting: Sequence[SlotUser]) -> list[Ending]:
    """Return the oldest, as many as are too many for the newest that cancels what runs."""
    newcomers = [
        each for each in waiting if each.policy is LimitPolicy.CANCEL_RUNNING and each.cancellable
    ]
    if not newcomers:
        return []
    newest = max(newcomers, key=lambda each: each.id)
    live = sorted(each.id for each in (*held, *waiting) if each.cancellable)
    return [
        Ending(one, LimitEnd.REPLACED, newest.id)
        for one in live[: max(0, len(live) - newest.max)]
        if one < newest.id
    ]


def said(ending: Ending, key: str, what: str) -> str:
    """Return the message of what a limit cancels; `what` is the word for it: run, execution."""
    other = f"{what} {ending.because_of}"
    match ending.why:
        case LimitEnd.LIMIT_REACHED:
            return f"The limit {key!r} is reached: the {other} has the slot."
        case LimitEnd.REPLACED:
            return f"The newer {other} has the same limit {key!r}, and runs instead."
        case LimitEnd.SUPERSEDED:
            return f"The newer {other} has the same limit {key!r}, and waits instead."
        case LimitEnd.DEADLOCK:
            return (
                f"Runs wait for each other: this one for a slot of the limit {key!r}, which the "
                f"{other} keeps to its end, and runs below that one for slots that runs above "
                "this one keep. Give the workflows at the top the limits of those below them, or "
                "use count: running."
            )
