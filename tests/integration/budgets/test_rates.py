"""Rates that processes share: in memory and on a real server, with the same promises."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Protocol

import pytest

from celeriac.adapters.rate_limit import RedisRateLimiter
from celeriac.domain.usage import Rate, RateDenied, RateGrant, RateRequest, rate_requests
from celeriac.embedded.home import reserve_port
from celeriac.services.ports import RateLimiter
from tests.support.memory_rates import MemoryRateLimiter
from tests.support.servers import ValkeyServer
from tests.support.together import together
from tests.support.waiting import wait_until

WINDOW = 2.0
"""Seconds that the limiters under test take for a minute."""

MODEL = "test/model"


class Limiters(Protocol):
    """Makes limiters that share their counts, as those of several processes do."""

    def __call__(self) -> RateLimiter: ...


@pytest.fixture(params=["memory", "valkey"])
def limiters(request: pytest.FixtureRequest) -> Iterator[Limiters]:
    if request.param == "memory":
        shared = MemoryRateLimiter(window_seconds=WINDOW)
        yield lambda: shared
        return
    server: ValkeyServer = request.getfixturevalue("valkey_server")
    server.flush()
    made: list[RedisRateLimiter] = []

    def make() -> RateLimiter:
        made.append(RedisRateLimiter(server.url(0), window_seconds=WINDOW))
        return made[-1]

    yield make
    for each in made:
        each.close()


def demand(
    requests: int | None = None, tokens: int | None = None, *, takes: int = 1
) -> RateRequest:
    return RateRequest("test", Rate(requests, tokens), takes)


def take(
    limiter: RateLimiter, *wanted: RateRequest, enqueue: bool = False
) -> RateGrant | RateDenied:
    return limiter.take(wanted, name=MODEL, enqueue=enqueue)


@pytest.mark.requirement("E6")
def test_all_processes_together_take_no_more_than_the_rate(limiters: Limiters) -> None:
    processes = [limiters() for _ in range(3)]

    def ask(limiter: RateLimiter) -> Callable[[], RateGrant | RateDenied]:
        return lambda: take(limiter, demand(requests=10))

    answers = together([ask(each) for each in processes * 6])

    assert sum(isinstance(each, RateGrant) for each in answers) == 10
    refused = [each.seconds for each in answers if isinstance(each, RateDenied)]
    assert len(refused) == 8
    assert all(0 < seconds <= WINDOW * 62 / 60 for seconds in refused)


def test_capacity_returns_at_the_announced_time(limiters: Limiters) -> None:
    limiter = limiters()
    take(limiter, demand(requests=1))

    def taken() -> bool:
        return isinstance(take(limiter, demand(requests=1)), RateGrant)

    assert not taken()
    wait_until(taken, "there is room again", within=5 * WINDOW)


def test_tokens_count_as_they_were_demanded_and_then_as_they_were_used(limiters: Limiters) -> None:
    limiter = limiters()
    first = take(limiter, demand(tokens=100, takes=80))
    assert isinstance(first, RateGrant)
    assert isinstance(take(limiter, demand(tokens=100, takes=30)), RateDenied)

    limiter.correct(first, 50)

    assert isinstance(take(limiter, demand(tokens=100, takes=30)), RateGrant)
    assert isinstance(take(limiter, demand(tokens=100, takes=30)), RateDenied)


def test_the_capacity_of_a_call_that_is_given_back_can_be_taken(limiters: Limiters) -> None:
    limiter = limiters()
    first = take(limiter, demand(requests=1, tokens=10, takes=10))
    assert isinstance(first, RateGrant)

    limiter.give_back(first)

    assert isinstance(take(limiter, demand(requests=1, tokens=10, takes=10)), RateGrant)


def test_a_call_takes_from_all_its_rates_or_from_none(limiters: Limiters) -> None:
    limiter = limiters()
    wide, narrow = RateRequest("test", Rate(requests=2), 1), RateRequest(MODEL, Rate(requests=1), 1)
    assert isinstance(take(limiter, wide, narrow), RateGrant)

    assert isinstance(take(limiter, wide, narrow), RateDenied)

    assert isinstance(take(limiter, wide), RateGrant), "the refused call took nothing of it"
    assert isinstance(take(limiter, wide), RateDenied)


def test_queued_calls_wait_longer_one_after_the_other(limiters: Limiters) -> None:
    limiter = limiters()
    for _ in range(4):
        take(limiter, demand(requests=4))

    answers = [take(limiter, demand(requests=4), enqueue=True) for _ in range(4)]

    waits = [each.seconds for each in answers if isinstance(each, RateDenied)]
    steps = [later - earlier for earlier, later in pairwise(waits)]
    assert len(steps) == 3
    assert all(step > WINDOW / 4 * 0.5 for step in steps), f"one place after the other: {waits}"


def test_a_ban_refuses_its_model_only_and_is_never_shortened(limiters: Limiters) -> None:
    limiter, other = limiters(), limiters()

    limiter.ban(MODEL, 30)
    limiter.ban(MODEL, 1)

    refused = take(other, demand(requests=5))
    assert isinstance(refused, RateDenied)
    assert 25 < refused.seconds <= 30
    assert isinstance(other.take([demand(requests=5)], name="test/other", enqueue=False), RateGrant)


@pytest.mark.requirement("E6")
def test_without_a_server_calls_are_let_through() -> None:
    limiter = RedisRateLimiter(f"redis://127.0.0.1:{reserve_port()}/0")

    for _ in range(100):
        taken = take(limiter, demand(requests=1))
        assert isinstance(taken, RateGrant)
        limiter.correct(taken, 5)
        limiter.give_back(taken)
    limiter.ban(MODEL, 60)
    limiter.close()


def test_a_call_demands_of_its_provider_and_its_model() -> None:
    rates = {"a": Rate(tokens=50), "a/m": Rate(requests=3), "b": Rate(requests=1)}

    found = rate_requests(rates, provider="a", model="m", tokens=80)

    assert [(each.name, each.tokens) for each in found] == [("a", 50), ("a/m", 80)]
    assert rate_requests(rates, provider="c", model="m", tokens=80) == ()
