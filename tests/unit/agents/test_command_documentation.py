"""docs/command-agents.md has every message of the protocol with all its fields, and no other."""

import re
from types import UnionType
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from celeriac.agents.child import protocol
from celeriac.agents.child.run import MAX_LOG_CHARACTERS
from tests.support.programs import REPOSITORY

PAGE = (REPOSITORY / "docs" / "command-agents.md").read_text()


def rows(heading: str) -> dict[str, set[str]]:
    section = PAGE.split(f"### {heading}\n", 1)[1].split("\n### ", 1)[0]
    return {
        name: set(re.findall(r"`(\w+)`", fields))
        for name, fields in re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.MULTILINE)
    }


def test_what_a_program_may_write_is_there() -> None:
    assert rows("To the worker, on stdout") == {
        str(model.model_fields["type"].default): {
            field.alias or name for name, field in model.model_fields.items() if name != "type"
        }
        for model in messages(protocol.ChildMessage)
    }


def test_sizes_are_those_of_the_code() -> None:
    assert f"{protocol.MAX_LINE_BYTES // 2**20} MiB" in PAGE
    assert f"{protocol.MAX_NOTE_BYTES // 2**10} KiB" in PAGE
    assert f"{MAX_LOG_CHARACTERS:,} characters" in PAGE


def messages(union: Any) -> list[type[BaseModel]]:
    if get_origin(union) is Annotated:
        return messages(get_args(union)[0])
    assert isinstance(union, UnionType)
    return list(get_args(union))
