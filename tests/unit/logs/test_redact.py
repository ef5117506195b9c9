"""Secrets never reach a line; counts and ids do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.logs.redact import MASK, clip, redact, redact_text


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "db_passwd",
        "client_secret",
        "SECRET_KEY",
        "api_key",
        "apiKey",
        "x-api-key",
        "Authorization",
        "Cookie",
        "set-cookie",
        "token",
        "access_token",
        "lease_token",
        "csrf-token",
        "private_key",
        "credentials",
    ],
)
def test_values_under_secret_names_are_masked(key: str) -> None:
    assert redact({key: "s3cr3t"}) == {key: MASK}
    assert redact({"headers": [{key: ["s3cr3t"]}]}) == {"headers": [{key: MASK}]}


@pytest.mark.parametrize(
    "key", ["input_tokens", "total_tokens", "token_count", "max_tokens", "tokens_per_second"]
)
def test_token_counts_are_kept_but_tokens_under_such_names_are_not(key: str) -> None:
    assert redact({key: 17}) == {key: 17}
    assert redact({key: "s3cr3t"}) == {key: MASK}


@pytest.mark.parametrize("key", ["idempotency_key", "author", "execution_id", "passenger", "queue"])
def test_ordinary_names_are_kept(key: str) -> None:
    assert redact({key: "value"}) == {key: "value"}


def test_the_absence_of_a_secret_is_no_secret() -> None:
    assert redact({"password": None, "token": False}) == {"password": None, "token": False}


@pytest.mark.parametrize(
    ("text", "expected"),  # None: unchanged
    [
        ("postgresql://me:pw@db:5432/x", "postgresql://***@db:5432/x"),
        ("redis://:pw@host/0 and amqp://a:b@c//", "redis://***@host/0 and amqp://***@c//"),
        ("http://host/path?api_key=abc&page=2", "http://host/path?api_key=***&page=2"),
        ("Authorization: Bearer abcdefgh.ijk", "Authorization: Bearer ***"),
        ("login(user='me', password='p w')", "login(user='me', password=***)"),
        ('{"access_token": "abc", "n": 1}', '{"access_token": ***, "n": 1}'),
        ("key sk-proj-abcdefghijklmnop is wrong", "key sk-*** is wrong"),
        ("used total_tokens=17 of 20", "used total_tokens=17 of 20"),
        ("write to me@example.org", "write to me@example.org"),
        ("http://host/a@b", "http://host/a@b"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic ***"),
        ("{'authorization': 'abcdefghi'}", "{'authorization': '***'}"),
        ("sent bearer eyJ0eXAi_x", "sent bearer ***"),
        ("basic instructions for the bearer certificates", None),
        ("the secret is simple: a token of thanks", None),
    ],
)
def test_secrets_inside_texts_are_masked(text: str, expected: str | None) -> None:
    assert redact_text(text) == (expected or text)


def test_deep_and_wide_values_are_cut() -> None:
    nest: object = "core"
    for _ in range(20):
        nest = [nest]
    assert str(redact(nest)).count("[") == 6
    assert redact(list(range(150)))[-2:] == [99, "…"]
    assert redact({str(n): n for n in range(150)})["…"] == 50
    loop: list[object] = []
    loop.append(loop)
    assert "…" in str(redact(loop))


def test_clip_cuts_to_the_limit_and_masks_first() -> None:
    assert clip("short") == "short"
    assert clip("x" * 300) == "x" * 199 + "…"
    assert clip(["a", {"password": "p"}]) == '["a",{"password":"***"}]'
    assert len(clip({"text": "y" * 10_000_000})) == 200
    assert clip(None) == "null"


@given(
    st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists), st.integers(1, 50)
)
def test_clip_never_exceeds_its_limit(value: object, limit: int) -> None:
    assert len(clip(value, limit)) <= limit


@given(st.text(alphabet="abc:/@=& 'sk-tokenpassword\"", max_size=200))
def test_masking_is_stable(text: str) -> None:
    once = redact_text(text)
    assert redact_text(once) == once


@pytest.mark.parametrize("part", ["a", "://", "password", "token=", "bearer ", "x@", "sk-", "'"])
def test_long_hostile_texts_are_masked_in_linear_time(part: str) -> None:
    """Quadratic time would be hours: the suite's time limit would end the test."""
    text = part * (2_000_000 // len(part))
    assert redact_text(text)
