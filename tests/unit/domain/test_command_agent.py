"""Specifications of `command` agents."""

import pytest
from pydantic import ValidationError

from celeriac.domain.agents import CommandAgent


def test_a_command_is_a_name_never_a_path() -> None:
    assert CommandAgent(command="word-count").arguments == ()
    for path in ("/bin/sh", "../sh", "", "a b", "-c"):
        with pytest.raises(ValidationError):
            CommandAgent(command=path)


@pytest.mark.parametrize("argument", ["a\0b", "x" * 10_001])
def test_arguments_are_what_a_program_can_be_given(argument: str) -> None:
    with pytest.raises(ValidationError):
        CommandAgent(command="count", arguments=("", "--fine", argument))
