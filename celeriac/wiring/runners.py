"""The runners of a process, as its settings have them."""

import os

from celeriac.agents.registry import Registry
from celeriac.settings import Settings
from celeriac.wiring.options import anthropic, confinement, places, providers, tool_servers
from celeriac.wiring.prices import load_prices


def build_runners(settings: Settings) -> Registry:
    """Return what finds the runner of an agent; none is made yet."""
    bounds = confinement(settings, os.environ)
    return Registry(
        providers=providers(settings),
        prices=load_prices(settings),
        agent_modules=settings.agent_modules,
        commands=settings.commands,
        tool_servers=tool_servers(settings, bounds),
        crewai_venv=settings.crewai,
        anthropic=anthropic(settings),
        sessions_root=places(settings).sessions,
        confinement=bounds,
    )
