"""What must hold of each execution after a run, by what really happened to it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from celeriac.domain.executions.events import EventType
from tests.support.chaos.catalog import MOST_AT_ONCE, Model, model_calls_of
from tests.support.chaos.driver import Driver
from tests.support.chaos.facts import TERMINAL, Facts
from tests.support.chaos.faults import Happening
from tests.support.chaos.findings import Finding, Harm
from tests.support.chaos.plan import LEASE_SECONDS, Submission
from tests.support.chaos.system import Struck
from tests.support.replay import replay

CALL_TOKENS = 15
_MARGIN_SECONDS = 1.5
_WINDS_UP_SECONDS = 40.0
_FORGETFUL = frozenset({"kill_postgres", "kill_postgres_backend", "promote_replica"})
"""After these a claim may be forgotten, and with it that an attempt had begun (ADR 3).

If the execution is cancelled before the next claim, its row never learns of the attempt.
"""


@dataclass(frozen=True, slots=True)
class Case:
    """What the checks look at."""

    facts: Facts
    driver: Driver
    model: Model
    struck: Sequence[Struck]
    happenings: Sequence[Happening]

    def found(self, check: str, harm: Harm, row: Any, detail: str) -> Finding:
        """Return a finding about an execution."""
        return Finding(check, harm, f"{row.token} {row.id}", detail, self.facts.alive(row))


def accepted(case: Case) -> Iterator[Finding]:
    """What was accepted is stored; what was committed without an answer is stored as well."""
    facts = case.facts
    for entry in {id(each): each for each in facts.entries.values()}.values():
        alive = (entry.begun, entry.ended or float("inf"))
        key = entry.work.key
        if entry.refused is not None:
            yield Finding("refused", Harm.OTHER, key, entry.refused, alive)
        if not entry.ended:
            yield Finding("never answered", Harm.OTHER, key, "no API answered", alive)
        for execution in (each for ids in entry.answers for each in ids):
            if execution not in facts.rows:
                yield Finding("accepted and gone", Harm.LOST, execution, f"key {key}", alive)
        missing = [token for token in entry.work.tokens() if token not in facts.by_token]
        if missing and (entry.answers or key in facts.keys):
            yield Finding("accepted and gone", Harm.LOST, key, f"not stored: {missing}", alive)
        if not entry.answers and key not in facts.keys and len(missing) < entry.work.count:
            yield Finding("stored without its key", Harm.OTHER, key, "it can't be repeated", alive)


def stored_once(case: Case) -> Iterator[Finding]:
    """One key made one execution, however often the request was sent."""
    for token, rows in case.facts.by_token.items():
        for row in rows[1:]:
            yield case.found("stored twice", Harm.DOUBLED, row, f"first as {rows[0].id}: {token}")


def ended_right(case: Case) -> Iterator[Finding]:
    """Every execution has ended, as its kind must."""
    for entry, _, row in case.facts.submitted():
        if row.status not in TERMINAL:
            detail = f"{row.status}, attempt {row.attempt}, crashes {row.crash_count}"
            yield case.found("not ended", Harm.LOST, row, detail)
        elif row.status not in _expected(entry.work.kind, cancelled=str(row.id) in entry.cancelled):
            detail = f"{row.status} {row.error_code}: {row.error_message}"
            yield case.found("wrong end", Harm.LOST, row, detail)
        elif row.status == "failed" and row.error_code != "agent_failed_permanently":
            yield case.found("wrong end", Harm.LOST, row, f"failed with {row.error_code}")


def _expected(kind: str, *, cancelled: bool) -> frozenset[str]:
    if kind.startswith("hold"):
        return frozenset({"cancelled"} if cancelled else {"cancelled", "completed"})
    return frozenset({"failed" if kind == "refuse" else "completed"})


def right_results(case: Case) -> Iterator[Finding]:
    """The result is that of the attempt that the row names."""
    for entry, token, row in case.facts.submitted():
        if row.status != "completed":
            continue
        kind = entry.work.kind
        answer = f"answer to {token}"
        if kind in ("think", "ask_parked"):
            expected: object = token if kind == "think" else answer
            if row.result != expected:
                yield case.found("wrong result", Harm.LOST, row, f"{row.result!r}")
            continue
        got = row.result if isinstance(row.result, dict) else {}
        if (got.get("token"), got.get("attempt")) != (token, row.attempt):
            detail = f"{row.result!r}, attempt {row.attempt}"
            yield case.found("wrong result", Harm.LOST, row, detail)
        if kind == "ask" and got.get("answer") != answer:
            yield case.found("wrong result", Harm.LOST, row, f"{got.get('answer')!r}")


def effects_agree(case: Case) -> Iterator[Finding]:
    """An attempt begins once; the one that completed has begun and ended; none is unknown."""
    for entry, _, row in case.facts.submitted():
        if entry.work.kind in ("think", "ask_parked"):
            continue
        begun, ended = case.facts.begun(row), case.facts.ended(row)
        by_attempt = Counter(each.attempt for each in begun)
        for attempt, count in by_attempt.items():
            times = [each.at for each in begun if each.attempt == attempt]
            if count > 1 and not _forgotten(case, min(times), max(times)):
                detail = f"attempt {attempt} began {count} times"
                yield case.found("attempt ran twice", Harm.DOUBLED, row, detail)
            if attempt > row.attempt and not _forgotten(case, min(times), max(times)):
                detail = f"attempt {attempt} ran, the row knows {row.attempt}"
                yield case.found("unknown attempt", Harm.OTHER, row, detail)
        if row.status == "completed" and row.attempt not in {each.attempt for each in ended}:
            detail = f"attempt {row.attempt} has completed and never ended"
            yield case.found("completed without effect", Harm.LOST, row, detail)


def _forgotten(case: Case, begin: float, end: float) -> bool:
    return any(
        each.fault.name in _FORGETFUL
        and each.begun < end
        and each.ended + LEASE_SECONDS > begin - LEASE_SECONDS
        for each in case.happenings
    )


def not_early(case: Case) -> Iterator[Finding]:
    """Delayed work doesn't start before its time."""
    for _, _, row in case.facts.submitted():
        once = row.status == "completed" and row.attempt == 1  # a retry is due later than its start
        if once and row.started_at < row.available_at:
            detail = f"{row.started_at} before {row.available_at}"
            yield case.found("started early", Harm.OTHER, row, detail)


def crashes_explained(case: Case) -> Iterator[Finding]:
    """A worker counts as lost only if its process has died or was stopped past its lease."""
    by_pid: dict[int, list[Struck]] = {}
    for each in case.struck:
        by_pid.setdefault(each.pid, []).append(each)
    for _, _, row in case.facts.submitted():
        for event in case.facts.events[str(row.id)]:
            if event.type != "worker_lost":
                continue
            pid = int(str(event.data.get("worker")).rsplit("/", 1)[-1])
            if not any(_explains(case, each, event.at) for each in by_pid.get(pid, ())):
                detail = f"attempt {event.attempt}, {event.data.get('worker')}, which was alive"
                yield case.found("crash without a dead worker", Harm.OTHER, row, detail)


def _explains(case: Case, struck: Struck, at: float) -> bool:
    if struck.asked:  # to end: it hands back what runs, unless the database is away
        return struck.begun < at and any(
            each.fault.area in {"postgres", "pooler"}
            and each.begun < struck.begun + _WINDS_UP_SECONDS
            and each.ended > struck.begun
            for each in case.happenings
        )
    if struck.ended == float("inf"):
        return struck.begun < at
    long_enough = struck.ended - struck.begun > LEASE_SECONDS - _MARGIN_SECONDS
    return long_enough and struck.begun < at < struck.ended + LEASE_SECONDS


def told_once(case: Case) -> Iterator[Finding]:
    """Events of an agent are in the log once, in order, and all of them once it has completed."""
    for entry, _, row in case.facts.submitted():
        said: dict[int, list[int]] = {}
        for event in case.facts.events[str(row.id)]:
            if event.type == "custom":
                number = event.data.get("data", {}).get("number")
                said.setdefault(event.attempt, []).append(number)
        for attempt, numbers in said.items():
            if len(set(numbers)) < len(numbers):
                detail = f"attempt {attempt}: {numbers}"
                yield case.found("event doubled", Harm.DOUBLED, row, detail)
            elif numbers != list(range(1, len(numbers) + 1)):
                yield case.found("event lost", Harm.LOST, row, f"attempt {attempt}: {numbers}")
        if row.status == "completed" and entry.work.kind in ("talk", "plain"):
            last = len(set(said.get(row.attempt, [])))
            if last != entry.work.times:
                detail = f"{last} of {entry.work.times} in attempt {row.attempt}"
                yield case.found("event lost", Harm.LOST, row, detail)


def charged_once(case: Case) -> Iterator[Finding]:
    """Model calls are counted once each, in the table, in the totals and in the budget."""
    for entry, token, row in case.facts.submitted():
        kind, times = entry.work.kind, entry.work.times
        by_attempt = case.facts.calls.get(str(row.id), {})
        made = sum(each.calls for each in by_attempt.values())
        if kind in ("think", "ask_parked"):
            if made > case.model.answered[token]:
                detail = f"{made} calls, the model answered {case.model.answered[token]}"
                yield case.found("model call doubled", Harm.DOUBLED, row, detail)
            wanted = 1
        else:
            wanted = model_calls_of(kind, times)
            for attempt, calls in by_attempt.items():
                if calls.calls > wanted:
                    detail = f"attempt {attempt}: {calls.calls} of {wanted}"
                    yield case.found("model call doubled", Harm.DOUBLED, row, detail)
        last = by_attempt[row.attempt].calls if row.attempt in by_attempt else 0
        if row.status == "completed" and last < wanted:
            detail = f"attempt {row.attempt}: {last} of {wanted}"
            yield case.found("model call lost", Harm.LOST, row, detail)
        yield from _totals(case, row)
        yield from _budget(case, row, entry.work)


def _totals(case: Case, row: Any) -> Iterator[Finding]:
    calls = case.facts.calls.get(str(row.id), {}).values()
    types = Counter(event.type for event in case.facts.events[str(row.id)])
    pairs = {
        "model calls": (row.model_call_count, sum(each.calls for each in calls)),
        "model call events": (types["model_call"], sum(each.calls for each in calls)),
        "input tokens": (row.input_tokens, sum(each.input_tokens for each in calls)),
        "output tokens": (row.output_tokens, sum(each.output_tokens for each in calls)),
        "cost": (row.cost, sum(each.cost for each in calls)),
        "messages": (row.message_count, types["message"]),
        "tool calls": (row.tool_call_count, types["tool_call"]),
    }
    for what, (total, parts) in pairs.items():
        if total != parts:
            harm = Harm.DOUBLED if total > parts else Harm.LOST
            yield case.found("totals differ", harm, row, f"{what}: {total}, not {parts}")


def _budget(case: Case, row: Any, work: Submission) -> Iterator[Finding]:
    """Where nothing was interrupted, its budget was charged for its calls and nothing else."""
    undisturbed = row.status == "completed" and row.crash_count == 0
    begun = Counter(each.attempt for each in case.facts.begun(row))
    if work.kind not in ("talk", "think") or not undisturbed or row.attempt > 1 or begun[1] > 1:
        return
    answered = case.model.answered[row.token] if work.kind == "think" else work.times
    spent, used = int(row.spent_tokens or 0), answered * CALL_TOKENS
    if spent != used:
        harm = Harm.DOUBLED if spent > used else Harm.LOST
        detail = f"{spent} tokens spent, {used} used"
        yield case.found("budget charged wrongly", harm, row, detail)


def right_release(case: Case) -> Iterator[Finding]:
    """Every attempt runs the release that was in force when the execution was submitted."""
    for entry, _, row in case.facts.submitted():
        kind = entry.work.kind
        if kind not in case.driver.releases:
            continue
        pinned = int(str(row.function).rsplit("_", 1)[-1])
        ran = {each.release for each in case.facts.effects[str(row.id)]}
        if ran - {pinned}:
            detail = f"ran {sorted(ran)}, was submitted with {pinned}"
            yield case.found("wrong release", Harm.LOST, row, detail)
        possible = case.driver.releases[kind].between(entry.begun, entry.ended or float("inf"))
        if pinned not in possible:
            detail = f"submitted with {pinned}, in force were {sorted(possible)}"
            yield case.found("wrong release", Harm.LOST, row, detail)


def logs_lead_to_statuses(case: Case) -> Iterator[Finding]:
    """Each log is a walk through the table of states, which ends where the row says."""
    for _, _, row in case.facts.submitted():
        log = [EventType(event.type) for event in case.facts.events[str(row.id)]]
        try:
            reached = str(replay(log))
        except (AssertionError, IndexError) as error:
            yield case.found("log breaks the table of states", Harm.OTHER, row, str(error))
            continue
        if reached != row.status:
            detail = f"the row is {row.status}, its log says {reached}"
            yield case.found("log breaks the table of states", Harm.OTHER, row, detail)


def within_limits(case: Case) -> Iterator[Finding]:
    """At no time more executions with one key have run than its limit allows."""
    changes: dict[str, list[tuple[float, int]]] = {key: [] for key in MOST_AT_ONCE}
    for row in case.facts.rows.values():
        for begin, end in case.facts.running(row) if row.limit_keys else ():
            for key in row.limit_keys:
                changes[key] += [(begin, 1), (end, -1)]
    for key, most in MOST_AT_ONCE.items():
        running = 0
        for at, change in sorted(changes[key]):  # at the same time, ends come first
            running += change
            if running > most:
                detail = f"{running} ran at once, {most} may"
                yield Finding("more at once than the limit", Harm.DOUBLED, key, detail, (at, at))


CHECKS: Iterable[Callable[[Case], Iterator[Finding]]] = (
    accepted,
    stored_once,
    ended_right,
    right_results,
    effects_agree,
    not_early,
    crashes_explained,
    told_once,
    charged_once,
    right_release,
    within_limits,
    logs_lead_to_statuses,
)
