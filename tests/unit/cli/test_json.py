"""`--json`: every command that takes it writes JSON."""

import dis
from collections.abc import Iterator
from importlib import import_module
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest
import typer

from celeriac.cli.main import build_app

_WRITERS = frozenset({"json", "write", "write_details", "write_list"})
"""Methods of `Output`."""


def _commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", {})
    for name, each in inner.items():
        yield from _commands(each, (*words, name))
    if not inner and any("--json" in parameter.opts for parameter in command.params):
        yield " ".join(words), command


COMMANDS = dict(_commands(typer.main.get_command(build_app())))


def _functions(callback: Any) -> Iterator[FunctionType]:
    """Yield a command's function and those that decorators hold of it."""
    if isinstance(callback, FunctionType):
        yield callback
        for cell in callback.__closure__ or ():
            yield from _functions(cell.cell_contents)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _called(function: FunctionType, code: CodeType) -> Iterator[FunctionType]:
    """Yield the functions of the command line that `code` names, imported by it or beside it."""
    module = None
    for step in dis.get_instructions(code):
        found: object = None
        if step.opname == "IMPORT_NAME" and str(step.argval).startswith("celeriac.cli"):
            module = import_module(step.argval)
        elif step.opname == "IMPORT_FROM":
            found = getattr(module, step.argval, None)
        elif step.opname == "LOAD_GLOBAL":
            found = function.__globals__.get(step.argval)
        if isinstance(found, FunctionType) and found.__module__.startswith("celeriac.cli"):
            yield found


def _writes_json(function: FunctionType, seen: set[FunctionType]) -> bool:
    if function in seen:
        return False
    seen.add(function)
    for code in _codes(function.__code__):
        if _WRITERS.intersection(code.co_names):
            return True
        if any(_writes_json(each, seen) for each in _called(function, code)):
            return True
    return False


def test_many_commands_take_it() -> None:
    assert len(COMMANDS) > 50
    assert isinstance(import_module("celeriac.cli.approvals"), ModuleType)


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_that_takes_json_writes_it(words: str) -> None:
    seen: set[FunctionType] = set()
    assert any(_writes_json(each, seen) for each in _functions(COMMANDS[words].callback))
