"""What functions return, as JSON."""

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from uuid import UUID

import pytest

from celeriac.agents import output
from celeriac.agents.output import violations_of
from celeriac.agents.results import MAX_RESULT_BYTES, encode_result
from celeriac.domain import schemas as validation
from celeriac.domain.errors import PermanentError
from celeriac.services.catalog import schemas
from tests.support.agent_functions import Lead


class Colour(StrEnum):
    RED = "red"


@dataclass
class Offer:
    price: Decimal
    lead: Lead


def test_rich_values_become_json() -> None:
    value = {
        "offer": Offer(Decimal("1.50"), Lead(company="Acme")),
        "colour": Colour.RED,
        "id": UUID(int=1),
        "at": datetime(2026, 1, 2, 3, tzinfo=UTC),
        "day": date(2026, 1, 2),
        "file": Path("/a/b"),
        "pair": (1, None),
    }

    assert json.loads(encode_result(value, "shop:offer")) == {
        "offer": {"price": "1.50", "lead": {"company": "Acme", "size": 1}},
        "colour": "red",
        "id": "00000000-0000-0000-0000-000000000001",
        "at": "2026-01-02T03:00:00+00:00",
        "day": "2026-01-02",
        "file": "/a/b",
        "pair": [1, None],
    }


def _circle() -> list[object]:
    circle: list[object] = []
    circle.append(circle)
    return circle


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({1}, "it holds a set"),
        (object(), "it holds a object"),
        (Offer, "it holds a type"),
        (float("inf"), "not JSON compliant"),
        ("\ud800", "surrogates not allowed"),
        ({(1, 2): 3}, "keys must be"),
        (_circle(), "Circular reference"),
        ("x" * MAX_RESULT_BYTES, "the limit is 8,000,000"),
    ],
)
def test_the_rest_is_refused_with_the_function_and_the_reason(value: object, reason: str) -> None:
    with pytest.raises(PermanentError, match=reason) as raised:
        encode_result(value, "shop:offer")

    assert "shop:offer" in raised.value.message


@pytest.mark.anyio
async def test_a_large_output_waits_for_others_that_are_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its model calls are paid: it must not be thrown away because the process is busy."""
    monkeypatch.setattr(schemas, "_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(validation, "_INLINE_STEPS", 0)
    monkeypatch.setattr(output, "is_quick", lambda *_: False)
    for _ in range(2):
        assert schemas._CHILDREN.acquire(blocking=False)
    checked = asyncio.ensure_future(violations_of({"type": "string"}, "a"))
    done, _ = await asyncio.wait({checked}, timeout=0.5)
    assert not done
    for _ in range(2):
        schemas._CHILDREN.release()
    assert await checked == []
