"""Signatures, tokens and secrets of inbound hooks, and the variables that requests give."""

from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.domain.errors import ConfigurationError, InvalidInputError
from celeriac.domain.expressions import Work
from celeriac.domain.hooks.mapping import check_mapping, check_when, scope_of, variables_of, wanted
from celeriac.domain.hooks.model import Refusal, StoredSecret, Verification
from celeriac.domain.hooks.secrets import TOKEN_CHARACTERS, HookKeys
from celeriac.domain.hooks.signatures import (
    WINDOW_SECONDS,
    SignatureError,
    keys_of,
    sample_headers,
    secret_fault,
    verify,
)
from celeriac.services.hooks.rates import Rates

pytestmark = pytest.mark.requirement("F18", "A3")

AT = 1_731_705_121
STANDARD = (
    # published with the reference libraries of the specification
    Verification.STANDARD,
    "whsec_plJ3nmyCDGBKInavdOK15jsl",
    {
        "webhook-id": "msg_loFOjxBNrRLzqYUf",
        "webhook-timestamp": str(AT),
        "webhook-signature": "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
    },
    b'{"event_type":"ping","data":{"success":true}}',
)
GITHUB = (
    # from GitHub's page on validating deliveries
    Verification.GITHUB,
    "It's a Secret to Everybody",
    {
        "x-hub-signature-256": "sha256="
        "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    },
    b"Hello, World!",
)
KEYS = HookKeys("a key of tests alone: 0123456789abcdef")


@pytest.mark.parametrize(("form", "secret", "headers", "body"), [STANDARD, GITHUB])
def test_published_signatures_are_right(
    form: Verification, secret: str, headers: dict[str, str], body: bytes
) -> None:
    verify(form, [secret], headers, body, now=AT)
    verify(form, ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", secret], headers, body, now=AT)
    for wrong in (body + b" ", b""):
        with pytest.raises(SignatureError) as error:
            verify(form, [secret], headers, wrong, now=AT)
        assert error.value.reason is Refusal.SIGNATURE_WRONG


@pytest.mark.failure("H2")
def test_h2_secrets_have_a_prefix_or_none() -> None:
    form, secret, headers, body = STANDARD
    verify(form, [secret.removeprefix("whsec_")], headers, body, now=AT)


@pytest.mark.failure("H1")
def test_h1_a_signature_with_a_time_is_good_for_the_window() -> None:
    secret = "whsec_plJ3nmyCDGBKInavdOK15jsl"
    for form in (Verification.STANDARD, Verification.STRIPE):
        headers = dict(sample_headers(form, secret, "m", AT, b"{}"))
        for now in (AT - WINDOW_SECONDS, AT, AT + WINDOW_SECONDS):
            verify(form, [secret], headers, b"{}", now=now)
        for now in (AT - WINDOW_SECONDS - 1, AT + WINDOW_SECONDS + 1):
            with pytest.raises(SignatureError) as error:
                verify(form, [secret], headers, b"{}", now=now)
            assert error.value.reason is Refusal.TOO_OLD


@given(
    form=st.sampled_from(Verification),
    headers=st.dictionaries(
        st.sampled_from(
            ["webhook-id", "webhook-timestamp", "webhook-signature", "x-hub-signature-256",
             "stripe-signature", "authorization"]
        ),
        st.text(st.characters(max_codepoint=255), max_size=60)
        | st.sampled_from(["v1,", "t=1,v1=", "t=9" + "9" * 20, "Bearer ", "sha256=", "²", "1"]),
    ),
    body=st.binary(max_size=40),
)  # fmt: skip
def test_whatever_comes_is_refused_and_nothing_else(
    form: Verification, headers: Mapping[str, str], body: bytes
) -> None:
    with pytest.raises(SignatureError):
        verify(form, ["whsec_plJ3nmyCDGBKInavdOK15jsl"], headers, body, now=1)


@given(
    form=st.sampled_from(Verification), body=st.binary(max_size=100), at=st.integers(0, 10**12 - 1)
)
def test_what_is_signed_is_genuine_for_its_secret_alone(
    form: Verification, body: bytes, at: int
) -> None:
    hook = UUID(int=7)
    one, two = (KEYS.secret(hook, StoredSecret(number, None)) for number in (1, 2))
    headers = dict(sample_headers(form, one, "m", at, body))
    verify(form, [two, one], headers, body, now=at)
    with pytest.raises(SignatureError):
        verify(form, [two], headers, body, now=at)


def test_the_names_of_deliveries_are_those_of_the_senders() -> None:
    headers = {"webhook-id": "a", "x-github-delivery": "b", "idempotency-key": "c"}
    body = {"id": "evt_1"}

    def name(form: Verification, body: Any = body, headers: Any = headers) -> str | None:
        return keys_of(form, headers, b"x", body).name

    assert [name(form) for form in Verification] == ["a", "b", "evt_1", "c"]
    assert name(Verification.STRIPE, {"id": 5}) is None
    assert name(Verification.STRIPE, []) is None
    assert name(Verification.BEARER, headers={"idempotency-key": ""}) is None
    digests = {form: keys_of(form, headers, b"x", body).digest for form in Verification}
    assert [form for form in Verification if digests[form]] == [Verification.GITHUB]


def test_tokens_name_their_hook_and_nobody_can_make_one() -> None:
    hook = uuid4()
    token = KEYS.token(hook)
    assert len(token) == TOKEN_CHARACTERS
    assert KEYS.hook_id(token) == hook
    assert HookKeys("another").hook_id(token) is None
    forged = urlsafe_b64encode(hook.bytes + bytes(16)).rstrip(b"=").decode()
    last = token[-1]
    others = [chr(ord(last) ^ 1), chr(ord(last) ^ 2), "=", ""]
    for wrong in (forged, "", "é", "a" * 43, token + "A", token + "\n", " " + token,
                  *(token[:-1] + each for each in others)):  # fmt: skip
        assert KEYS.hook_id(wrong) is None


@given(token=st.text(max_size=60))
def test_any_text_is_read_as_a_token(token: str) -> None:
    assert KEYS.hook_id(token) is None


def test_given_secrets_are_sealed_for_one_hook_and_number() -> None:
    hook, secret = uuid4(), "a secret of the sender"
    sealed = KEYS.sealed(hook, 3, secret)
    assert KEYS.sealed(hook, 3, secret) != sealed, "each time with another nonce"
    assert secret.encode() not in sealed
    assert KEYS.secret(hook, StoredSecret(3, sealed)) == secret
    for keys, other, number in ((KEYS, hook, 4), (KEYS, uuid4(), 3), (HookKeys("b"), hook, 3)):
        with pytest.raises(ConfigurationError):
            keys.secret(other, StoredSecret(number, sealed))


def test_derived_secrets_differ() -> None:
    hooks = [uuid4() for _ in range(3)]
    secrets = {KEYS.secret(hook, StoredSecret(n, None)) for hook in hooks for n in range(1, 4)}
    assert len(secrets) == 9
    assert all(secret_fault(form, each) is None for form in Verification for each in secrets)


@pytest.mark.parametrize("form", Verification)
def test_secrets_that_no_header_can_have_are_refused(form: Verification) -> None:
    for wrong in ("ä" * 20, "a" * 20 + "\n", " " + "a" * 20):
        assert secret_fault(form, wrong) is not None


SCHEMA = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["text"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("mapping", "field"),
    [
        ({}, "mapping"),
        ({"text": "a", "count": "b"}, "mapping.count"),
        ({"text": "a", "cuont": 1}, "mapping.cuont"),
        ({"text": ["${{ body. }}"]}, "mapping.text.0"),
        ({"text": "${{ input.a }}"}, "mapping.text"),
        ({"text": "${{ headers.Host }}"}, "mapping.text"),
    ],
)
def test_a_mapping_that_can_never_fit_is_refused(mapping: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError) as error:
        check_mapping(mapping, SCHEMA, "task t")
    assert error.value.field == field


def test_a_mapping_that_may_fit_is_taken() -> None:
    check_mapping(None, SCHEMA, "task t")
    check_mapping({"text": "${{ body.a }}", "count": "${{ query.n }}"}, SCHEMA, "task t")
    check_mapping({"text": "${{ headers['x-a'] }}", "count": 5}, SCHEMA, "task t")
    check_when("has(body.a) && headers.host != ''")


def test_values_come_from_the_request() -> None:
    scope = scope_of({"a": {"b": [1, None]}}, {"x-a": "h"}, {"q": "z"})
    mapping = {"whole": "${{ body.a }}", "mixed": ["${{ headers['x-a'] }}-${{ query.q }}"]}
    assert variables_of(mapping, scope, Work()) == {"whole": {"b": [1, None]}, "mixed": ["h-z"]}
    assert variables_of(None, scope, Work()) == {"a": {"b": [1, None]}}
    assert wanted(None, scope, Work())
    assert not wanted("body.a.b[0] > 1", scope, Work())
    for bad in ("body.missing == 1", "body.a"):
        with pytest.raises(InvalidInputError):
            wanted(bad, scope, Work())
    with pytest.raises(InvalidInputError):
        variables_of({"a": "${{ body.missing }}"}, scope, Work())
    with pytest.raises(InvalidInputError):
        variables_of(None, scope_of([1], {}, {}), Work())


def test_an_allowance_refills_and_is_of_one_key() -> None:
    now = [100.0]
    rates = Rates(lambda: now[0])
    assert [rates.take("a", per_minute=3) for _ in range(3)] == [0.0] * 3
    assert rates.take("a", per_minute=3) == pytest.approx(20.0)
    assert rates.wait("a", per_minute=3) == pytest.approx(20.0)
    assert rates.take("b", per_minute=3) == rates.wait("b", per_minute=3) == 0.0
    now[0] += 20.0
    assert rates.take("a", per_minute=3) == 0.0
    assert rates.take("a", per_minute=3) > 0.0
    now[0] += 60.0
    assert [rates.take("a", per_minute=3) for _ in range(3)] == [0.0] * 3
    many = Rates(lambda: now[0])
    assert sum(not many.take("c", per_minute=7) for _ in range(20)) == 7
