"""Limits of tasks by key: their keys, and who gets slots."""

from uuid import UUID

import pytest
from pydantic import ValidationError

from celeriac.domain.errors import InputInvalidError
from celeriac.domain.executions.limits import Admission, Wants, admission
from celeriac.domain.limit_policies import LimitPolicy
from celeriac.domain.limits import ConcurrencyLimit, RateLimit, task_limits
from celeriac.domain.tasks import MAX_LIMITS, TaskSpec
from celeriac.domain.workspace_limits import LimitSpec

SCOPE = {"variables": {"key": "a", "n": 2.0}, "task": "index", "user": "u", "workspace": "w"}


def limit(key: str, most: int = 1) -> ConcurrencyLimit:
    return ConcurrencyLimit(key=key, max=most)


def test_keys_are_texts_and_the_smallest_of_the_same_key_counts() -> None:
    given = [limit("task + ':' + user", 3), limit("variables.n"), limit("'index:u'", 2)]
    found = [(each.key, each.max, each.policy) for each in task_limits(given, [], SCOPE)]
    assert found == [("2", 1, LimitPolicy.QUEUE), ("index:u", 2, LimitPolicy.QUEUE)]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("variables.nothing", "nothing"),
        ("variables", "an object"),
        ("'x' + string([1].map(n, variables.key))", "can't be computed"),
    ],
)
def test_a_key_that_has_no_value_is_refused_by_its_field(key: str, said: str) -> None:
    with pytest.raises(InputInvalidError, match=said) as refused:
        task_limits([limit("'fixed'"), limit(key)], [], SCOPE)
    assert refused.value.details["field"] == "concurrency.1.key"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("varables.key", "did you mean variables"),
        ("input.key", "there are variables, labels, task, user, workspace"),
        ("variables.", "at "),
        ("${{ variables.key }}", "without"),
        ("{{ key }}", "without {{ }}"),
        ("true", "a text or a number"),
        ("", "at least 1"),
    ],
)
def test_a_key_that_can_t_be_right_is_refused_with_the_task(key: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said) as refused:
        TaskSpec.model_validate({"concurrency": [{"key": key, "max": 1}]})
    assert refused.value.errors()[0]["loc"] == ("concurrency", 0, "key")


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        ({"max": 1_000_000, "seconds": 0.9}, "1,000,000 a second"),
        ({"max": 1_000_000, "seconds": 5e-324}, "1,000,000 a second"),
        ({"max": 1, "seconds": 366 * 86_400, "burst": 101}, "100 years"),
    ],
)
def test_a_rate_of_which_no_time_can_be_computed_is_refused(
    rate: dict[str, float], said: str
) -> None:
    for refuse in (
        lambda: RateLimit.model_validate({"key": "task", **rate}),
        lambda: LimitSpec.model_validate(rate),
    ):
        with pytest.raises(ValidationError, match=said):
            refuse()


def test_the_fastest_and_the_slowest_rate_fit_into_the_database() -> None:
    fastest = RateLimit(key="task", max=1_000_000, seconds=1.0)
    slowest = RateLimit(key="task", max=1, seconds=366 * 86_400, burst=100)
    assert fastest.at_once <= 2**31 - 1
    assert slowest.interval * slowest.at_once <= 100 * 366 * 86_400


def test_a_task_has_few_limits() -> None:
    many = [{"key": f"'{n}'", "max": 1} for n in range(MAX_LIMITS + 1)]
    with pytest.raises(ValidationError):
        TaskSpec.model_validate({"concurrency": many})


def wants(number: int, *limits: tuple[str, int, int]) -> Wants:
    return Wants(UUID(int=number), list(limits))


def given(line: str, *waiting: Wants) -> tuple[list[int], list[tuple[int, str]]]:
    found: Admission = admission(line, waiting)
    return [each.int for each in found.admitted], [(each.int, key) for each, key in found.moved]


def test_the_first_of_a_line_get_what_is_free_in_their_order() -> None:
    line = [wants(number, ("a", 3, 1)) for number in (4, 2, 7)]
    assert given("a", *line) == ([4, 2], [])


def test_who_lacks_a_slot_of_another_key_goes_to_its_line_and_holds_up_nobody() -> None:
    assert given(
        "a",
        wants(1, ("a", 2, 0), ("b", 5, 5), ("c", 2, 2)),
        wants(2, ("a", 2, 0), ("b", 6, 5)),
        wants(3, ("a", 2, 0), ("b", 6, 5)),
        wants(4, ("a", 2, 0)),
        wants(5, ("a", 2, 0)),
    ) == ([2, 4], [(1, "c"), (3, "b")])


def test_the_line_ends_with_the_first_that_finds_no_slot_of_its_key() -> None:
    assert given("a", wants(1, ("a", 1, 1)), wants(2, ("a", 5, 1))) == ([], [])
