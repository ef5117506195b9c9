"""The code blocks of README.md, docs/*.md and READMEs of examples, and how each is tested."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer.main

from celeriac.cli.main import build_app
from tests.support.programs import REPOSITORY

PROSE = ("text", "mermaid", "nginx", "dockerfile")
"""Languages of blocks that nobody runs: output, drawings, the settings of other programs."""

_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>\S*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its page, the line that it begins in, its language and what it says."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        """Return the place, as editors find it."""
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Return the pages whose examples are tested, as paths in the repository."""
    found = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]
    found += sorted((REPOSITORY / "docs").glob("*.md"))
    found += sorted((REPOSITORY / "examples").glob("*/README.md"))
    return [str(path.relative_to(REPOSITORY)) for path in found]


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page, in their order."""
    text = Path(REPOSITORY / page).read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found["language"], found["text"])
        for found in _BLOCK.finditer(text)
    ]


def examples() -> list[Block]:
    """Return all blocks of all pages but those of prose."""
    return [block for page in pages() for block in blocks(page) if block.language not in PROSE]


def typed(block: Block) -> str:
    """Return what a person types of a shell block; of a `console` block what follows `$ `."""
    if block.language != "console":
        return block.text
    joined = block.text.replace("\\\n", " ")
    return "".join(f"{line[2:]}\n" for line in joined.splitlines() if line.startswith("$ "))


def command_lines(block: Block) -> Iterator[list[str]]:
    """Yield the arguments of each `celeriac` command in a shell block."""
    joined = typed(block).replace("\\\n", " ")
    lexer = shlex.shlex(joined.replace("\n", "\n;"), posix=True, punctuation_chars=";&|<>()")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set(";&|<>()"):
            words.append(word)
            continue
        while words and re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
        if words[:1] == ["celeriac"]:
            yield words[1:]
        words = []


def check_command(arguments: list[str]) -> None:
    """Let the command line read the arguments without running anything; raises what is wrong."""
    command = typer.main.get_command(build_app())
    context = command.make_context("celeriac", list(arguments[:1]), resilient_parsing=True)
    rest = list(arguments)
    while hasattr(command, "resolve_command"):
        _, found, rest = command.resolve_command(context, rest)
        assert found is not None, f"celeriac {shlex.join(arguments)}: there is no such command"
        command = found
        if hasattr(command, "resolve_command"):
            context = command.make_context(command.name, rest[:1], resilient_parsing=True)
    command.make_context(command.name, rest)
