"""The plan of a run, made from a seed: which faults, when and to whom, and which work."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from random import Random

LEASE_SECONDS = 4.0
EXECUTIONS_PER_ROUND = 50
_ROUND_SECONDS = 3.0
_RECOVERY_SECONDS = 1.5
_BETWEEN_DEPLOYS = 8
_TWO_FAULTS = 0.25
"""The share of rounds with a second fault."""

SHORT = (0.3, 2.0)
LONG = (1.3 * LEASE_SECONDS, 2.0 * LEASE_SECONDS)

APIS = ("api1", "api2")
BEATS = ("beat1", "beat2")
THREAD_WORKERS = ("w1", "w3")
PREFORK_WORKERS = ("w2",)
WORKERS = (*THREAD_WORKERS, *PREFORK_WORKERS)


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A fault by its name: what it strikes, and how long (seconds) whatever it strikes is away."""

    area: str
    targets: Sequence[str]
    seconds: Sequence[tuple[float, float]]


FAULTS = {
    "kill_api": FaultKind("api", APIS, [SHORT]),
    "freeze_api": FaultKind("api", APIS, [SHORT, LONG]),
    "restart_api": FaultKind("api", APIS, [SHORT]),
    "kill_worker": FaultKind("worker", WORKERS, [SHORT]),
    "kill_worker_child": FaultKind("worker", PREFORK_WORKERS, [SHORT]),
    "freeze_worker": FaultKind("worker", WORKERS, [SHORT, LONG]),
    "restart_worker": FaultKind("worker", WORKERS, [SHORT]),
    "kill_beat": FaultKind("beat", BEATS, [SHORT]),
    "freeze_beat": FaultKind("beat", BEATS, [SHORT, LONG]),
    "kill_postgres": FaultKind("postgres", ["postgres"], [(0.0, 0.5), LONG]),
    "kill_postgres_backend": FaultKind("postgres", ["postgres"], [SHORT]),
    "freeze_postgres": FaultKind("postgres", ["postgres"], [SHORT, LONG]),
    "promote_replica": FaultKind("postgres", ["postgres"], [SHORT, LONG]),
    "cut_connections": FaultKind("postgres", ["proxy"], [SHORT]),
    "lock_rows": FaultKind("postgres", ["postgres"], [SHORT, LONG]),
    "lose_answers": FaultKind(
        "postgres", ["usage", "submission", "budget", "any"], [(1.0, 4.0)]
    ),
    "kill_pooler": FaultKind("pooler", ["pooler"], [SHORT]),
    "freeze_pooler": FaultKind("pooler", ["pooler"], [SHORT, LONG]),
    "kill_valkey": FaultKind("valkey", ["valkey"], [SHORT, LONG]),
    "freeze_valkey": FaultKind("valkey", ["valkey"], [SHORT, LONG]),
    "flush_broker": FaultKind("valkey", ["broker", "all"], [(0.0, 0.1)]),
    "garbage": FaultKind("valkey", ["broker"], [(0.0, 0.1)]),
    "deploy_agent": FaultKind("catalog", ["release-by-version"], [(1.0, 2.5)]),
    "deploy_task": FaultKind("catalog", ["release-by-agent"], [(1.0, 2.5)]),
}  # fmt: skip
"""All faults; `tests.support.chaos.faults` carries them out."""

POOLER_FAULTS = frozenset(name for name, kind in FAULTS.items() if kind.area == "pooler")


def faults_of(*, pooler: bool) -> list[str]:
    """Return the faults of a system with or without a pooler."""
    return [name for name in FAULTS if pooler or name not in POOLER_FAULTS]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a round: `at` seconds after its beginning, `target` is away for `seconds`."""

    number: int
    name: str
    target: str
    at: float
    seconds: float
    seed: int
    """For choices that are left to the moment, such as which child of a worker is killed."""

    @property
    def area(self) -> str:
        """What it strikes; two faults of a round never strike the same."""
        return FAULTS[self.name].area


@dataclass(frozen=True, slots=True)
class Submission:
    """One request: an execution, or a batch where `count` is more than 1."""

    key: str
    """The idempotency key; tokens of executions are made from it."""
    at: float
    kind: str
    count: int
    delay: float
    patient: bool
    """Whether the client repeats a request whose answer is lost."""
    times: int
    """How often the agent does what it does: emits, fails, charges."""
    pause: float
    """Seconds between one thing that it does and the next."""
    cancel_after: float

    def tokens(self) -> list[str]:
        """What names the executions in their variables, results and effects."""
        return [f"{self.key}.{number}" for number in range(self.count)]


@dataclass(frozen=True, slots=True)
class Round:
    """Faults and the work that is submitted meanwhile."""

    number: int
    seconds: float
    faults: Sequence[Fault]
    work: Sequence[Submission]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run does."""

    seed: int
    executions: int
    pooler: bool
    """Whether all programs reach PostgreSQL through PgBouncer."""
    faults: Sequence[str]
    rounds: Sequence[Round]


_KINDS = {
    "noop": 28,
    "talk": 24,
    "plain": 5,
    "think": 9,
    "later": 8,
    "limited": 8,
    "stumble": 6,
    "refuse": 2,
    "ask": 3,
    "ask_parked": 3,
    "hold": 3,
    "hold_plain": 1,
    "release-by-version": 5,
    "release-by-agent": 5,
}
"""Kinds of work (`tests.support.chaos.catalog`), and how often each is chosen."""

_BATCHES = {"noop": 0.2, "limited": 0.2, "talk": 0.05, "stumble": 0.1, "release-by-version": 0.3,
            "release-by-agent": 0.3}  # fmt: skip
"""The share of requests for a kind that are batches."""


def make_plan(
    seed: int, executions: int, faults: Collection[str] | None = None, *, pooler: bool = False
) -> Plan:
    """Return the plan of a seed. Work and faults don't depend on each other's choices."""
    names = [name for name in faults_of(pooler=pooler) if faults is None or name in faults]
    count = max(len(names), round(executions / EXECUTIONS_PER_ROUND), 1)
    struck = _faults(Random(f"{seed}/faults"), names, count)
    chosen = Random(f"{seed}/work")
    rounds, left = [], executions
    for number, of_round in enumerate(struck):
        share = round(left / (count - number))
        left -= share
        seconds = max([_ROUND_SECONDS, *(each.at + each.seconds for each in of_round)])
        between = list(_between_deploys(f"{seed}-{number}", of_round))
        share -= sum(each.count for each in between)
        work = [*between, *_work(chosen, f"{seed}-{number}", share, seconds)]
        rounds.append(Round(number, seconds + _RECOVERY_SECONDS, of_round, work))
    return Plan(seed=seed, executions=executions, pooler=pooler, faults=names, rounds=rounds)


def _faults(chosen: Random, names: Sequence[str], rounds: int) -> list[list[Fault]]:
    """Every fault once in a random order, then again; in some rounds another one beside it."""
    struck: list[list[Fault]] = []
    bag: list[str] = []
    number = 0
    for _ in range(rounds):
        of_round: list[Fault] = []
        if names:
            if not bag:
                bag = chosen.sample(names, len(names))
            of_round.append(_fault(chosen, bag.pop(), number))
            if chosen.random() < _TWO_FAULTS:
                second = _fault(chosen, chosen.choice(names), number + 1)
                if second.area != of_round[0].area:
                    of_round.append(second)
            number += len(of_round)
        struck.append(of_round)
    return struck


def _fault(chosen: Random, name: str, number: int) -> Fault:
    kind = FAULTS[name]
    return Fault(
        number=number,
        name=name,
        target=chosen.choice(kind.targets),
        at=round(chosen.uniform(0.3, 1.5), 3),
        seconds=round(chosen.uniform(*chosen.choice(kind.seconds)), 3),
        seed=chosen.getrandbits(32),
    )


def _between_deploys(prefix: str, faults: Sequence[Fault]) -> Iterator[Submission]:
    """Yield what is submitted between the two deploys of a fault, and runs after the second."""
    for fault in faults:
        if fault.area == "catalog":
            yield Submission(
                key=f"{prefix}-{fault.name}",
                at=round(fault.at + fault.seconds / 2, 3),
                kind=fault.target,
                count=_BETWEEN_DEPLOYS,
                delay=fault.seconds,
                patient=True,
                times=1,
                pause=0.0,
                cancel_after=0.0,
            )


def _work(chosen: Random, prefix: str, executions: int, seconds: float) -> Iterator[Submission]:
    kinds, weights = list(_KINDS), list(_KINDS.values())
    number, largest = 0, max(3, min(20, executions // 3))
    while executions > 0:
        kind = chosen.choices(kinds, weights)[0]
        batch = chosen.random() < _BATCHES.get(kind, 0.0)
        count = min(executions, chosen.randint(3, largest) if batch else 1)
        delay = chosen.uniform(0.5, 5.0) if kind == "later" or "release" in kind else 0.0
        yield Submission(
            key=f"{prefix}-{number}",
            at=round(chosen.uniform(0.0, seconds), 3),
            kind=kind,
            count=count,
            delay=round(delay, 3),
            patient=chosen.random() < 0.9,
            times=chosen.randint(2, 8) if kind == "talk" else chosen.randint(1, 2),
            pause=round(chosen.uniform(0.05, 0.5), 3),
            cancel_after=round(chosen.uniform(0.1, 3.0), 3),
        )
        executions -= count
        number += 1
