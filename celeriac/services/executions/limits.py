"""Limits by key of executions: their check at submission, and who gets the slots.

An execution with limits is stored `pending` and held. It may be sent when it has a slot of each
key, which `TaskLimits` gives out in turn: after a submission, after each attempt, and in the
keeper, which walks over all keys that somebody waits for. So a process that dies before it has done
so loses nothing.
"""

from collections.abc import Callable, Sequence
from uuid import UUID

import structlog

from celeriac.db.engine import Connection, Database
from celeriac.db.executions import debounces, lifecycle, pauses
from celeriac.db.executions import limits as rows
from celeriac.db.executions.limits import Line
from celeriac.domain.errors import DatabaseUnavailableError, LimitReachedError
from celeriac.domain.executions.limits import admission
from celeriac.domain.executions.states import Held
from celeriac.domain.limit_policies import LimitPolicy
from celeriac.domain.limits import Ending, KeyedLimit, LimitEnd, endings, said
from celeriac.kit.threads import Threads
from celeriac.services.executions.stop import AfterEnds, Cancel
from celeriac.services.ports import LiveEvents

logger = structlog.get_logger(__name__)

_AT_ONCE = 32
"""How many of a line one transaction gives slots, or moves to another line."""

_KEYS_AT_ONCE = 16
"""Keys of which `TaskLimits.after_ends` gives out slots."""

_MOST_TURNS = 64
"""How many transactions one call makes; the keeper continues."""


def refuse(connection: Connection, workspace_id: UUID, limits: Sequence[KeyedLimit]) -> None:
    """Raise LimitReachedError for a new execution that may not wait. Needs a transaction.

    Nothing else gets the slot that is free then until the transaction ends.
    """
    strict = [each for each in limits if each.policy is LimitPolicy.CANCEL_NEW]
    if not strict:
        return
    rows.lock(connection, workspace_id, [each.key for each in strict])
    taken = rows.first_taken(connection, workspace_id, strict)
    if taken is not None:
        raise LimitReachedError(
            f"The limit {taken.key!r} is reached: the execution {taken.execution_id} has the slot. "
            "Wait for its end, or cancel it.",
            key=taken.key,
            max=taken.max,
            execution_id=str(taken.execution_id),
        )


class TaskLimits:
    """Gives out slots, and applies the policies of limits. Safe to share between threads.

    What has got its slots must be sent then, as what is due.
    """

    def __init__(
        self, database: Database, cancel: Cancel, live: LiveEvents, ended: AfterEnds
    ) -> None:
        """`ended` is called for executions that a policy has ended."""
        self._database = database
        self._cancel = cancel
        self._live = live
        self._ended = ended
        self._after: Line | None = None

    def of_keys(self, workspace_id: UUID, keys: Sequence[str]) -> int:
        """Give out slots of these keys; return how many executions have got theirs."""
        total, turns = 0, 0
        lines = list(keys)
        policies = set(lines)
        while lines and turns < _MOST_TURNS:
            key = lines.pop(0)
            if key in policies:
                policies.discard(key)
                self._apply(workspace_id, key)
            turns += 1
            admitted, moved, more = self._turn(workspace_id, key)
            total += admitted
            if more:
                lines.insert(0, key)
            lines += sorted(moved.difference(lines))
        return total

    def after_ends(self, execution_ids: Sequence[UUID]) -> int:
        """Give out the slots that these ends have given back, of some keys; the keeper does of all.

        Returns how many executions have got theirs. Costs one statement if they had no limits.
        Never raises.
        """
        if not execution_ids:
            return 0
        try:
            with self._database.autocommit() as connection:
                found = rows.keys_of(connection, execution_ids, limit=_KEYS_AT_ONCE)
        except DatabaseUnavailableError as error:
            logger.warning("limits.left_to_keeper", error=error.message)
            return 0
        return sum(admit(self, workspace_id, [key]) for workspace_id, key in found)

    def some(self, limit: int) -> int:
        """Do so for up to `limit` keys for which executions wait, behind those of the last call.

        Only the keeper calls it.
        """
        with self._database.autocommit() as connection:
            lines = rows.lines(connection, after=self._after, limit=limit)
        self._after = lines[-1] if len(lines) == limit else None
        return sum(
            self.of_keys(line.workspace_id, [line.key])
            for line in lines
            if line.free or line.policies
        )

    def ended(self, execution_ids: Sequence[UUID], code: str) -> None:
        """Tell those who follow executions that a limit has ended them."""
        for execution_id in execution_ids:
            logger.info("execution.ended_by_limit", execution_id=execution_id, code=code)
        self._live.changed(execution_ids)
        self._ended(execution_ids)

    def forget_rates(self, limit: int) -> int:
        """Delete rates and debounces of which nothing has come lately; return how many."""
        with self._database.autocommit() as connection:
            return rows.forget_rates(connection, limit=limit) + debounces.forget(
                connection, limit=limit
            )

    def _turn(self, workspace_id: UUID, key: str) -> tuple[int, set[str], bool]:
        """Give slots to the first of a line.

        Returns how many have got theirs, in which lines others wait now, and whether there may be
        more to do in this one.
        """
        with self._database.autocommit() as connection:
            found, keys = rows.first(connection, workspace_id, key, limit=_AT_ONCE)
        if not found:
            return 0, set(), False
        with self._database.transaction() as connection:
            rows.lock(connection, workspace_id, sorted(keys))
            held, paused = rows.hold(connection, found)
            if paused:
                pauses.keep_from_slots(connection, paused)
            if not held:
                return 0, set(), len(paused) == len(found)
            result = admission(key, rows.wants(connection, workspace_id, key, held))
            admitted = rows.give(connection, result.admitted) if result.admitted else []
            if result.moved:
                rows.move(connection, result.moved)
        for execution_id in admitted:
            logger.info("execution.admitted", execution_id=execution_id)
        lines = {line for _, line in result.moved}
        served = len(admitted) + len(result.moved) + len(paused)
        return len(admitted), lines, served == len(found)

    def _apply(self, workspace_id: UUID, key: str) -> None:
        """Cancel the executions that the policies of a key end."""
        with self._database.autocommit() as connection:
            if not rows.has_policies(connection, workspace_id, key):
                return
            held, waiting = rows.users(connection, workspace_id, key)
        for each in endings(held, waiting):
            self._end(each, key)

    def _end(self, ending: Ending, key: str) -> None:
        message = said(ending, key, "execution")
        if ending.why is LimitEnd.REPLACED:
            self._cancel.because([ending.id], f"limit: {message}")
            return
        with self._database.transaction() as connection:
            code = ending.why.value
            ended = lifecycle.crowd_out(
                connection, {ending.id: message}, held=Held.LIMIT, code=code
            )
        if ended:
            self.ended(ended, code)


class AdmitSoon:
    """Gives out slots in a thread of its own, so that no slot of a worker waits for it."""

    def __init__(self, limits: TaskLimits, send: Callable[[], None]) -> None:
        """Send by `send` what has got its slots; it raises nothing."""
        self._limits = limits
        self._send = send
        self._threads = Threads("limits", 1)

    def __call__(self, workspace_id: UUID, keys: Sequence[str]) -> None:
        """Give out slots of these keys soon; returns at once and raises nothing."""
        try:
            self._threads.submit(self._admit, workspace_id, keys)
        except (RuntimeError, MemoryError) as error:  # no thread is left, or the process ends
            logger.warning("limits.left_to_keeper", error=str(error))

    def close(self) -> None:
        """Begin no more."""
        self._threads.shutdown(wait=False)

    def _admit(self, workspace_id: UUID, keys: Sequence[str]) -> None:
        if admit(self._limits, workspace_id, keys):
            self._send()


def admit(limits: TaskLimits, workspace_id: UUID, keys: Sequence[str]) -> int:
    """Do what `TaskLimits.of_keys` does; what fails is left to the keeper. Never raises."""
    try:
        return limits.of_keys(workspace_id, keys)
    except DatabaseUnavailableError as error:
        logger.warning("limits.left_to_keeper", error=error.message)
    except Exception:  # the executions are stored
        logger.exception("limits.left_to_keeper")
    return 0
