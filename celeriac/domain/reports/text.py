"""Markdown from untrusted texts: they stay plain text and are cut to a limited length."""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

import orjson

from celeriac.kit.json_types import JsonValue
from celeriac.kit.text import clip, printable
from celeriac.kit.words import counted

_HARMLESS = r"(?<=[^\W_])[-_](?=[^\W_])|(?<![\w./@:])\d+\.\d+(?![\w./@:])"
"""A hyphen or underscore inside a word, and a decimal number: neither markup nor a link."""
_SPECIAL = re.compile(rf"({_HARMLESS})|([\\`*_{{}}\[\]<>()#+\-.!|~&])")
_BACKTICKS = re.compile(r"`+")
_LONGEST_BLOCK = 20_000
_LONGEST_LINE = 500


def inline(text: str, most: int = _LONGEST_LINE) -> str:
    """Return `text` on one line, cut to `most` characters, with all Markdown escaped."""
    line = _plain(" ".join(text[: 2 * most].split()))
    if len(line) > most or len(text) > 2 * most:
        line = line[: most - 1] + "…"
    return _SPECIAL.sub(lambda found: found[1] or f"\\{found[2]}", line)


def block(value: JsonValue) -> str:
    """Return a JSON value as a code block: a text unchanged, all else as indented JSON."""
    if isinstance(value, str):
        return fenced(value)
    return fenced(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode(), language="json")


def fenced(text: str, language: str = "") -> str:
    """Return a text as a code block that its content can't end; a long one is cut."""
    cut = len(text) - _LONGEST_BLOCK
    text = _plain(text[:_LONGEST_BLOCK])
    longest = max(map(len, _BACKTICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    shown = f"{fence}{language}\n{text}\n{fence}"
    return shown if cut <= 0 else f"{shown}\n\n*{counted(cut, 'more character')} left out here.*"


def short(value: JsonValue, most: int) -> str:
    """Return compact JSON, cut to `most` characters and not escaped."""
    return clip(orjson.dumps(value).decode(), most)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; cells may be untrusted texts."""
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    lines += [f"| {' | '.join(inline(_shown(cell)) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def bounded_table(
    heads: Sequence[str], rows: Sequence[Sequence[object]], count: int
) -> Iterator[str]:
    """Yield a table of the first `rows` of `count`, and the number of the others."""
    yield table(heads, rows)
    if count > len(rows):
        yield f"*{count - len(rows):,} more are in the events.*"


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Return names with their values as a list, without those whose value is None."""
    return "\n".join(
        f"- **{name}**: {inline(_shown(value))}" for name, value in pairs if value is not None
    )


def _shown(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return str(value)


def _plain(text: str) -> str:
    return printable(text.replace("\r\n", "\n"))
