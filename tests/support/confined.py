"""The bounds of child processes, as tests set them."""

import os
from collections.abc import Mapping

import pytest

from celeriac.agents.child.confinement import Confinement
from celeriac.domain.environment import EnvironmentRule
from celeriac.kit.users import OURSELVES, ChildUser, system_user

AGENT_USER = "celeriac-agent"


def confined(
    environment: Mapping[str, str], *allowed: str, user: ChildUser = OURSELVES
) -> Confinement:
    """Return bounds: agents may name the variables `allowed` of `environment`."""
    return Confinement(environment, EnvironmentRule(allowed), user)


def agent_user() -> ChildUser:
    """Return the user that root runs agents as; skips the test where we aren't root."""
    if os.geteuid() != 0:
        pytest.skip("only root can run agents as another user")
    return ChildUser(AGENT_USER, system_user(AGENT_USER))
