"""The values of secrets that an attempt was given are masked in what it writes."""

import json
import re
import time
from html import escape
from unicodedata import normalize
from urllib.parse import quote, quote_plus

import pytest

from celeriac.kit.text import clip, clip_middle
from celeriac.logs import masks
from celeriac.logs.masks import Masker
from celeriac.logs.redact import MASK

pytestmark = pytest.mark.requirement("F25")

VALUE = 's3cr"t\\valüe/with spaces+'
PEM = "-----BEGIN KEY-----\nQUJDREVGR0hJSktMTU5PUA==\nUVJTVFVWV1hZWmFiY2RlZg==\n-----END KEY-----"


@pytest.mark.parametrize(
    "written",
    [
        VALUE,
        json.dumps(VALUE),
        json.dumps(VALUE, ensure_ascii=False),
        json.dumps(json.dumps(VALUE)),
        json.dumps(VALUE).replace("/", "\\/"),
        quote(VALUE, safe=""),
        quote(VALUE),
        quote_plus(VALUE, safe="/"),
        escape(VALUE),
        repr(VALUE),
        repr(VALUE.encode()),
        re.sub("%..", lambda found: found[0].lower(), quote(VALUE)),
        normalize("NFD", VALUE),
    ],
)
def test_a_value_is_found_in_its_forms(written: str) -> None:
    masked = Masker([VALUE]).text(f"before {written} after")

    assert MASK in masked
    assert masked.startswith("before ")
    assert masked.endswith(" after")
    assert "valü" not in masked
    assert "s3cr" not in masked


def test_programs_in_go_and_shells_write_it_otherwise() -> None:
    masker = Masker(["p://u:it's<1>@db?a=1&b=ü"])

    assert (
        masker.text(r'"p://u:it\'s\u003c1\u003e@db?a=1\u0026b=ü"'.replace("\\'", "'"))
        == f'"{MASK}"'
    )
    assert masker.text("+ psql 'p://u:it'\\''s<1>@db?a=1&b=ü'") == f"+ psql '{MASK}'"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (("abcdefgh1234", "1234567890"), "abcdefgh1234567890"),
        (("1234567890", "abcdefgh1234"), "abcdefgh1234567890"),
        (("aaaaaaaa",), "a" * 13),
        (("abcabcabcabc",), "abc" * 5),
        (("outer-inner-outer", "inner-outer-more"), "outer-inner-outer-more"),
    ],
)
def test_nothing_is_left_of_values_that_overlap(values: tuple[str, ...], text: str) -> None:
    assert Masker(values).text(f"< {text} >") == f"< {MASK} >"


def test_the_middle_of_a_value_is_masked() -> None:
    value = "".join(f"{number:04d}" for number in range(1_000))
    masker = Masker([value])

    assert masker.text(value[500:1_500]) == MASK
    assert masker.text(f"…{value[500:520]}…") == f"…{MASK}…"


def test_long_values_in_long_texts_take_little_time() -> None:
    """Masking is done on the event loop of the worker."""
    masker = Masker(["\n".join(f"{number:016x}/{number:015x}" for number in range(1_000))])
    text = "…".join("y" * 3_000 for _ in range(30))
    begin = time.process_time()

    assert masker.text(text) == text
    assert time.process_time() - begin < 2


def test_lines_of_a_value_are_values() -> None:
    masker = Masker([PEM + "\n"])

    assert masker.text(PEM) == MASK
    for line in PEM.splitlines():
        assert masker.text(f"> {line}") == f"> {MASK}"


def test_json_stays_json() -> None:
    masker = Masker(["nabcdefgh", "12345678"])
    value = {
        "a\nabcdefgh": "\nabcdefgh",
        "number": 123456789,
        "key nabcdefgh": [True, None, 1.5, ("nabcdefgh",)],
    }

    masked = masker.value(value)

    assert json.loads(json.dumps(masked)) == {
        "a\nabcdefgh": "\nabcdefgh",
        "number": MASK,
        f"key {MASK}": [True, None, 1.5, [MASK]],
    }


def test_the_rest_of_a_value_at_a_cut_is_masked() -> None:
    value = "github_pat_0123456789abcdef"
    masker = Masker([value])
    filler = "x" * 1_990

    for cut in range(4, len(value) - 1):
        text = filler + value
        assert masker.text(text[: len(filler) + cut]) == filler + MASK
        assert masker.text(clip(text, len(filler) + cut + 1)) == filler + MASK + "…"
        assert masker.text(value[-cut:] + filler) == MASK + filler
    middle = clip_middle(filler + value + filler, len(filler) * 2 + 14)
    assert "github_" in middle
    assert "github_" not in masker.text(middle)
    assert "9abcdef" not in masker.text(middle)
    # a short text is whole: words that begin as the value does stay
    assert masker.text("github") == "github"


def test_lines_are_masked_for_their_own_execution_only() -> None:
    masker = Masker(["known-to-one"])
    masks.register("e1", masker)
    fields = {"event": "known-to-one"}

    assert masks.masked(dict(fields), "e1") == {"event": MASK}
    assert masks.masked(dict(fields), "e2") == fields
    assert masks.masked(dict(fields), None) == {"event": MASK}
    del masker
    assert masks.masked(dict(fields), "e1") == fields
