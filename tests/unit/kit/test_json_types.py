"""What can be stored as JSON, and in which words the rest is refused."""

import dataclasses
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.kit.json_types import MAX_DEPTH, checked, storable

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


@dataclasses.dataclass
class Pair:
    left: object
    right: object = None


@given(JSON)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    text = json.dumps(value)
    if "\\u0000" not in text:
        assert json.loads(storable(value)) == value


def test_rich_values_are_encoded() -> None:
    value = {1: Pair(UUID(int=1), (datetime(2026, 1, 2, tzinfo=UTC), None))}
    assert json.loads(storable(value)) == {
        "1": {"left": str(UUID(int=1)), "right": ["2026-01-02T00:00:00+00:00", None]}
    }


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


BAD: dict[str, tuple[Any, str]] = {
    "beyond unsigned": (2**64, "an integer beyond 64 bits; return a text"),
    "beyond signed": ([2**63], "an integer beyond 64 bits"),
    "in a dataclass": (Pair(2**70), "an integer beyond 64 bits"),
    "NaN beside null": ([None, float("nan")], "not JSON compliant"),
    "NaN in a dataclass": (Pair(float("inf")), "not JSON compliant"),
    "surrogate": ("\ud800", "surrogates not allowed"),
    "equal keys": ({1: 1, "1": 2}, "two keys that are '1' in JSON: one would be lost"),
    "keys that are equal without NUL": (
        [{"a\x00": {"b": 1}, "a\ufffd": 2}],
        "two keys that are 'a\ufffd' in JSON: one would be lost",
    ),
    "a key of another type": ({(1, 2): 3}, "keys must be texts or numbers, not tuple"),
    "an object": ({"a": [object()]}, "it holds a object"),
    "deeper than the encoder": (nested(2_000), "nested deeper than 250 levels"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_would_be_changed_or_lost_is_refused(what: str) -> None:
    value, reason = BAD[what]
    with pytest.raises(TypeError, match=reason):
        storable(value)


def test_what_agents_give_has_a_limit_of_its_own() -> None:
    assert checked(nested(MAX_DEPTH)) == nested(MAX_DEPTH)
    with pytest.raises(TypeError, match="nested deeper than 64 levels"):
        checked(nested(MAX_DEPTH + 1))
    assert storable(nested(MAX_DEPTH + 1))
