"""Numbers with their nouns, and that nothing else puts a number before a plural."""

import re
from pathlib import Path

import pytest

import celeriac
from celeriac.kit.words import counted

_NOUNS = (
    "tokens executions entries seals attempts events seconds questions times workers "
    "calls lines rows characters bytes files tasks steps agents models pages items levels fields "
    "queues users keys retries slots milliseconds hours minutes days interactions requests "
    "connections processes tries cassettes sessions approvals budgets"
)
_PLURAL = re.compile(rf"\{{(?P<what>[^{{}}]+)\}} (?:{'|'.join(_NOUNS.split())})\b")
_CONSTANT = re.compile(r"_?[A-Z][A-Z_]+(?::[^}]*)?|depths|server\.url|tokens\(.*")
_PAIR = re.compile(r"(?:of|→|to) \{[^{}]+\} \w+$")


@pytest.mark.parametrize(
    ("number", "nouns", "text"),
    [
        (1, ("token",), "1 token"),
        (0, ("token",), "0 tokens"),
        (1_500, ("token",), "1,500 tokens"),
        (1.0, ("second",), "1 second"),
        (0.5, ("second",), "0.5 seconds"),
        (1, ("entry", "entries"), "1 entry"),
        (2, ("entry", "entries"), "2 entries"),
    ],
)
def test_one_is_no_plural(number: float, nouns: tuple[str, ...], text: str) -> None:
    assert counted(number, *nouns) == text


def test_no_other_text_puts_a_changing_number_before_a_plural() -> None:
    found = []
    for file in sorted(Path(celeriac.__file__).parent.rglob("*.py")):
        for line in file.read_text().splitlines():
            for match in _PLURAL.finditer(line):
                pair = _PAIR.search(line[: match.end()])
                if not _CONSTANT.fullmatch(match["what"]) and not pair and "counted" not in line:
                    found.append(f"{file.name}: {line.strip()}")
    assert found == []
