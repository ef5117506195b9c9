"""The public decorator."""

import pytest

import celeriac
from celeriac.agents.python.functions import function_path, is_registered, registered_agents
from tests.support import agent_functions
from tests.support.run_context import FUNCTIONS


def test_offered_functions_are_listed_and_stay_as_they_are() -> None:
    assert registered_agents()["score"] == f"{FUNCTIONS}:score"
    assert is_registered(agent_functions.score)
    assert not is_registered(agent_functions.not_offered)
    assert agent_functions.echo(a=1) == {"a": 1}


def test_a_name_belongs_to_one_function() -> None:
    assert celeriac.agent("echo")(agent_functions.echo) is agent_functions.echo
    with pytest.raises(ValueError, match=r"@agent\('echo'\) is taken by .*:echo; choose another"):
        celeriac.agent("echo")(agent_functions.not_offered)


@pytest.mark.parametrize("thing", [lambda: None, agent_functions.Lead.model_dump, 3, "text"])
def test_only_functions_at_the_top_of_a_module_can_be_offered(thing: object) -> None:
    assert not is_registered(thing)
    with pytest.raises(TypeError, match="not a function at the top of a module"):
        function_path(thing)


def test_every_public_name_can_be_imported() -> None:
    assert all(getattr(celeriac, name) is not None for name in celeriac.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = celeriac.nothing
