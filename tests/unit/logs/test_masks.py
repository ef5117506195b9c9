"""The values of secrets that an attempt was given are masked in what it writes."""

import json
from html import escape
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
    ],
)
def test_a_value_is_found_in_its_forms(written: str) -> None:
    masked = Masker([VALUE]).text(f"before {written} after")

    assert MASK in masked
    assert masked.startswith("before ")
    assert masked.endswith(" after")
    assert "valü" not in masked
    assert "s3cr" not in masked


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
