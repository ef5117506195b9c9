"""Signatures of requests to hooks: checked on the body as it came, and made for tests."""

import hashlib
import hmac
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence

from celeriac.domain.executions.deliveries import DeliveryKeys
from celeriac.domain.hooks.model import Refusal, Verification
from celeriac.domain.webhooks import signature, signed_headers
from celeriac.kit.json_types import JsonValue

WINDOW_SECONDS = 300
"""How far the time of a signature may be from now, in both directions."""

MAX_NAME = 255
"""The longest name of a delivery; longer ones are not accepted."""

PRIVATE_HEADERS = frozenset(
    {
        "authorization",
        "cookie",
        "proxy-authorization",
        "stripe-signature",
        "webhook-signature",
        "x-hub-signature",
        "x-hub-signature-256",
    }
)
"""Headers that expressions don't see: they hold secrets or signatures."""

Headers = Mapping[str, str]
"""By their names in small letters."""

_LONGEST_TIME = 12
_SCHEME = "bearer"


class SignatureError(Exception):
    """A request is not from the sender, or is not new."""

    def __init__(self, reason: Refusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def verify(
    form: Verification, secrets: Sequence[str], headers: Headers, body: bytes, *, now: float
) -> None:
    """Raise SignatureError if none of `secrets` has signed these headers and this body.

    `now` is in seconds since 1970. Signatures with a time are good for `WINDOW_SECONDS`.
    """
    _VERIFY[form](secrets, headers, body, now)


def _standard(secrets: Sequence[str], headers: Headers, body: bytes, now: float) -> None:
    name, at = _header(headers, "webhook-id"), _time(_header(headers, "webhook-timestamp"))
    given = _header(headers, "webhook-signature").split(" ")
    wanted = [signature(secret, name, at, body) for secret in secrets]
    _require(given, wanted)
    _require_new(at, now)


def _github(secrets: Sequence[str], headers: Headers, body: bytes, now: float) -> None:
    del now  # GitHub signs no time: the digest of the body makes a repeat
    given = _header(headers, "x-hub-signature-256")
    _require([given], ["sha256=" + _hexadecimal(secret, body) for secret in secrets])


def _stripe(secrets: Sequence[str], headers: Headers, body: bytes, now: float) -> None:
    parts = [
        part.strip().partition("=") for part in _header(headers, "stripe-signature").split(",")
    ]
    at = _time(next((value for name, _, value in parts if name == "t"), ""))
    given = [value for name, _, value in parts if name == "v1"]
    signed = f"{at}.".encode() + body
    _require(given, [_hexadecimal(secret, signed) for secret in secrets])
    _require_new(at, now)


def _bearer(secrets: Sequence[str], headers: Headers, body: bytes, now: float) -> None:
    del body, now
    scheme, _, given = _header(headers, "authorization").partition(" ")
    if scheme.lower() != _SCHEME:
        raise SignatureError(Refusal.NOT_SIGNED, "The header authorization has no bearer secret.")
    _require([given.strip()], list(secrets), "The bearer secret is wrong.")


_VERIFY: Mapping[Verification, Callable[[Sequence[str], Headers, bytes, float], None]] = {
    Verification.STANDARD: _standard,
    Verification.GITHUB: _github,
    Verification.STRIPE: _stripe,
    Verification.BEARER: _bearer,
}


def _header(headers: Headers, name: str) -> str:
    value = headers.get(name, "")
    if not value:
        raise SignatureError(Refusal.NOT_SIGNED, f"The header {name} is missing.")
    return value


def _time(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= _LONGEST_TIME):
        raise SignatureError(Refusal.NOT_SIGNED, "The signature has no time in seconds since 1970.")
    return int(text)


def _hexadecimal(secret: str, signed: bytes) -> str:
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def _require(
    given: Sequence[str], wanted: Sequence[str], message: str = "The signature is wrong."
) -> None:
    """Raise SignatureError unless one of the texts is wanted; all are compared in full."""
    equal = [hmac.compare_digest(_bytes(one), _bytes(other)) for one in given for other in wanted]
    if not any(equal):
        raise SignatureError(Refusal.SIGNATURE_WRONG, message)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _require_new(at: int, now: float) -> None:
    if abs(now - at) > WINDOW_SECONDS:
        side = "old" if at < now else "far in the future"
        raise SignatureError(
            Refusal.TOO_OLD,
            f"The signature is too {side}: its time may be {WINDOW_SECONDS} seconds from now; "
            "check the sender's clock.",
        )


def keys_of(form: Verification, headers: Headers, raw: bytes, body: JsonValue) -> DeliveryKeys:
    """Return what names a verified delivery."""
    name: str | None
    digest = None
    match form:
        case Verification.STANDARD:
            name = headers.get("webhook-id")
        case Verification.GITHUB:
            name = headers.get("x-github-delivery")
            # its name is not signed: who has seen a request could send it again under another one
            digest = hashlib.sha256(raw).hexdigest()
        case Verification.STRIPE:
            found = body.get("id") if isinstance(body, Mapping) else None
            name = found if isinstance(found, str) else None
        case Verification.BEARER:
            name = headers.get("idempotency-key")
    return DeliveryKeys(name or None, digest)


def secret_fault(form: Verification, secret: str) -> str | None:
    """Return why a text can't be the secret of a hook, or None."""
    if not (secret.isascii() and secret.isprintable()) or secret.strip() != secret:
        return "must have printable ASCII characters, without spaces around it"
    if form is Verification.STANDARD:
        try:
            b64decode(secret.removeprefix("whsec_"), validate=True)
        except ValueError:
            return "must be base64, with or without whsec_, as Standard Webhooks demand"
    return None


def sample_headers(
    form: Verification, secret: str, name: str, at: int, body: bytes
) -> Iterator[tuple[str, str]]:
    """Yield the headers with which a sender signs a body at the Unix time `at`."""
    match form:
        case Verification.STANDARD:
            yield from signed_headers([secret], name, at, body).items()
        case Verification.GITHUB:
            yield "x-github-delivery", name
            yield "x-hub-signature-256", "sha256=" + _hexadecimal(secret, body)
        case Verification.STRIPE:
            signed = f"{at}.".encode() + body
            yield "stripe-signature", f"t={at},v1={_hexadecimal(secret, signed)}"
        case Verification.BEARER:
            yield "authorization", f"Bearer {secret}"
            yield "idempotency-key", name
