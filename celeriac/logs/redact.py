"""Masks secrets and shortens long values."""

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from itertools import islice
from typing import Any

import orjson

from celeriac.kit.text import clip as clip_text

MASK = "***"
_DEPTH = 6
_ITEMS = 100
_ELLIPSIS = "…"

_SECRET_KEY = re.compile(
    r"passw(or)?d|passphrase|secret|api[_-]?key|private[_-]?key|authorization|cookie|credential"
)
_SECRET_TOKEN_KEY = re.compile(r"(^|[_-])token$|token[_-](value|text)$")
# Every alternative starts with literal text and is bounded, so that long texts cost linear time.
_SECRET_TEXT = re.compile(
    r"""
      (?P<url>://)[^\s/@'"]{1,500}@                             # user:password@ of a URL
    | (?P<scheme>authorization["']?\s?[:=]\s?["']?(?:(?:bearer|basic)\s)?
                |\bbearer\s(?=\S{0,200}[\d_]))[\w.~+/=-]{8,}      # an Authorization header
    | (?P<name>(?:passw(?:or)?d|secret|token(?!s)|api[_-]?key)[\w-]{0,40}["']?\s?[=:]\s?)
      (?!\s)(?:"[^"]*"|'[^']*'|[^\s&,;)}\]]+)                   # password=…, "token": "…"
    """,
    re.IGNORECASE | re.VERBOSE,
)

# Looked for in few texts only: see `redact_text`.
_SECRET_SHAPE = re.compile(
    r"""
      (?P<cookie>(?:[Cc]ookie|COOKIE)["']?\s?[:=]\s?["']?)(?=[^\s=;"']{1,200}=)[^\r\n"']+
    | (?P<pem>-----BEGIN\ [A-Z0-9\ ]{0,40}PRIVATE\ KEY-----)
      (?:[^-]|-(?!----)){0,20000}(?:-----END[A-Z0-9\ ]{0,50}-----)?
    | (?P<prefix>\b(?:sk-|[sr]k_(?:live|test)_|pk-lf-|xai-|gsk_|hf_|r8_|pplx-|nvapi-|AIza|AKIA|ASIA
                     |gh[opsur]_|github_pat_|glpat-|xox[abeoprs]-|whsec_))
      [\w-]{16,}                                               # keys of providers
    | (?P<ours>\b[a-z]{2,12}_[0-9a-f]{12}_)[0-9a-f]{16,}       # keys of this API
    | (?P<jwt>\beyJ)[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]{0,2000})?    # JSON Web Tokens
    """,
    re.VERBOSE,
)
_LONG_WORD = re.compile(r"[\w-]{19}")
"""A key has a prefix of at least three characters and sixteen others."""


class _Kind(Enum):
    PLAIN = 0
    SECRET = 1
    UNLESS_NUMBER = 2


class _Kinds(dict[str, _Kind]):
    """Caches the kind of each key: a program has few keys and logs each of them often."""

    _LIMIT = 10_000

    def __missing__(self, key: str) -> _Kind:
        lowered = str(key).lower()
        if _SECRET_KEY.search(lowered) or _SECRET_TOKEN_KEY.search(lowered):
            kind = _Kind.SECRET
        elif "token" in lowered:
            kind = _Kind.UNLESS_NUMBER  # input_tokens is a count; a list of tokens is not
        else:
            kind = _Kind.PLAIN
        if len(self) < self._LIMIT:
            self[key] = kind
        return kind


_kinds = _Kinds()


def redact_text(text: str) -> str:
    """Return `text` with passwords in URLs, headers, `password=…` pairs and keys masked."""
    if "@" in text or "=" in text or " " in text or ":" in text:
        text = _SECRET_TEXT.sub(_mask_match, text)
    if _LONG_WORD.search(text) or "ookie" in text or "OOKIE" in text or "-----BEGIN" in text:
        text = _SECRET_SHAPE.sub(_mask_match, text)
    return text


def redact(value: Any, *, depth: int = _DEPTH) -> Any:
    """Return a JSON-like `value` with secrets masked, at most 6 levels deep, 100 items a level."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        if depth == 0:
            return _ELLIPSIS
        short = {
            str(key): redact_item(key, item, depth=depth - 1)
            for key, item in islice(value.items(), _ITEMS)
        }
        return short if len(value) <= _ITEMS else {**short, _ELLIPSIS: len(value) - _ITEMS}
    if isinstance(value, (list, tuple, set, frozenset)):
        return _ELLIPSIS if depth == 0 else _redact_items(value, depth=depth - 1)
    return value


def redact_item(key: Any, value: Any, *, depth: int = _DEPTH) -> Any:
    """Return `value` masked as its name `key` demands."""
    kind = _kinds[key]
    if kind is _Kind.PLAIN or value is None or isinstance(value, bool):
        return redact(value, depth=depth)
    if kind is _Kind.UNLESS_NUMBER and isinstance(value, (int, float)):
        return value
    return MASK


def clip(value: Any, limit: int = 200) -> str:
    """Return `value` as text of at most `limit` characters, secrets masked.

    Values that are no text become JSON. A value that was cut ends in an ellipsis.
    """
    if isinstance(value, str):
        # Masking seldom shortens a text much: some characters beyond the limit are enough.
        text = redact_text(value[: limit * 4])
    else:
        text = encode(redact(value)).decode()
    return clip_text(text, limit)


def encode(value: Any) -> bytes:
    """Return `value` as JSON; values without a JSON form become their repr."""
    try:
        return orjson.dumps(value, default=_describe, option=_OPTIONS)
    except TypeError:  # lone surrogates, integers beyond 64 bits: only that part becomes text
        if isinstance(value, dict):
            parts = (encode(str(key)) + b":" + encode(item) for key, item in value.items())
            return b"{" + b",".join(parts) + b"}"
        return orjson.dumps(_describe(value))


_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS


def _describe(value: Any) -> str:
    try:
        return redact_text(repr(value))
    except Exception as error:  # noqa: BLE001 - a broken __repr__ must not break the work
        return f"<{type(value).__name__}: {type(error).__name__} in repr>"


def _mask_match(match: re.Match[str]) -> str:
    assert match.lastgroup is not None  # each alternative has one group
    kept = match[match.lastgroup]
    return f"{kept}{MASK}@" if match.lastgroup == "url" else f"{kept}{MASK}"


def _redact_items(values: Iterable[Any], *, depth: int) -> list[Any]:
    items = iter(values)
    short = [redact(item, depth=depth) for item in islice(items, _ITEMS)]
    return short if next(items, None) is None else [*short, _ELLIPSIS]
