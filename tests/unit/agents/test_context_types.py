"""The types of durable calls: `assert_type` is checked by mypy, the values by the tests."""

from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict, assert_type

import pytest

import celeriac
from celeriac import AgentContext, ChildContext, ChildFailedError
from celeriac.kit.json_types import JsonObject
from celeriac.testing import run_function

NAMES = "types-of-a-count"


class Words(TypedDict):
    words: int


@dataclass
class Receipt:
    total: int


@celeriac.agent(NAMES)
async def count(text: str) -> dict[str, int]:
    return {"words": len(text.split())}


async def fetched(url: str, tries: int = 1) -> list[str]:
    return [url] * tries


def labelled(text: str, *, upper: bool = False) -> str:
    return text.upper() if upper else text


def maybe(text: str) -> dict[str, list[int]] | None:
    return {"sizes": [len(text)]} if text else None


def receipt(total: int) -> Receipt:
    return Receipt(total)


def pair() -> tuple[int, int]:
    return (1, 2)


def typed() -> Words:
    return {"words": 1}


@celeriac.agent("types-of-coroutines", durable=True)
async def coroutine(ctx: AgentContext) -> list[Any]:
    url = await ctx.step(fetched, "a", tries=2)
    assert_type(url, list[str])
    label = await ctx.step("label", labelled, "b", upper=True)
    assert_type(label, str)
    found = await ctx.step("maybe", maybe, "c", retry=3)
    assert_type(found, dict[str, list[int]] | None)
    later = await ctx.step(partial(labelled, "d"), retry=3, backoff=0.1)
    assert_type(later, str)
    shown = await ctx.step("lambda", lambda: 3)
    assert_type(shown, int)
    for number in (1, 2):
        shown += await ctx.step("lambda with a default", lambda number=number: number)
    # these change on the way through JSON
    paid = await ctx.step(receipt, 5)
    assert_type(paid, Any)
    both = await ctx.step("pair", pair, retry=1)
    assert_type(both, Any)
    words = await ctx.step(typed)
    assert_type(words, Any)
    assert_type(await ctx.sleep(0), None)
    counted = await ctx.run(count, {"text": "a b"})
    assert_type(counted, dict[str, int])
    named = await ctx.run(NAMES, {"text": "a b c"})
    assert_type(named, Any)
    texts = [{"text": "a"}, {"text": "a b"}]
    several = await ctx.map(count, texts)
    assert_type(several, list[dict[str, int]])
    tried = await ctx.map(count, texts, return_errors=True)
    assert_type(tried, list[dict[str, int] | ChildFailedError])
    return [url, label, found, later, shown, paid, both, words, counted, named, several, tried]


@celeriac.agent("types-of-plain-functions", durable=True)
def plain(ctx: ChildContext) -> list[Any]:
    label = ctx.step(labelled, "b", upper=True)
    assert_type(label, str)
    found = ctx.step("maybe", maybe, "c", retry=3)
    assert_type(found, dict[str, list[int]] | None)
    paid = ctx.step(receipt, 5)
    assert_type(paid, Any)
    counted = ctx.run(count, {"text": "a b"})
    assert_type(counted, dict[str, int])
    several = ctx.map(count, [{"text": "a"}])
    assert_type(several, list[dict[str, int]])
    return [label, found, paid, counted, several]


async def wrong(ctx: AgentContext) -> None:
    """Never called: mypy reports each of these, and each comment that is not needed."""
    await ctx.step(fetched, 1)  # type: ignore[call-overload]
    await ctx.step("fetch", fetched, "a", times=2)  # type: ignore[call-arg]
    ctx.step(fetched, "a")  # type: ignore[unused-coroutine]
    ctx.run(NAMES)  # type: ignore[unused-coroutine]


def _child(task: str, variables: JsonObject) -> JsonObject:
    assert task == NAMES
    return {"words": len(variables["text"].split())}


def test_values_have_the_types_that_checkers_see() -> None:
    one, two, three = ({"words": number} for number in (1, 2, 3))
    assert run_function(coroutine, {}, children=_child).result == [
        ["a", "a"], "B", {"sizes": [1]}, "d", 6, {"total": 5}, [1, 2], one,
        two, three, [one, two], [one, two],
    ]  # fmt: skip
    assert run_function(plain, {}, children=_child).result == [
        "B", {"sizes": [1]}, {"total": 5}, two, [one],
    ]  # fmt: skip


@celeriac.agent("types-of-an-unknown-task", durable=True)
async def runs_what_is_no_task(ctx: AgentContext) -> None:
    await ctx.run(fetched)


def test_a_function_without_a_name_is_no_task() -> None:
    with pytest.raises(TypeError, match=r"one @celeriac\.agent; .*:fetched has none"):
        run_function(runs_what_is_no_task, {})
