"""The runners of a process, as its settings have them."""

import os
import stat

from celeriac.agents.python.callables import declared_modules
from celeriac.agents.registry import Registry
from celeriac.services.places import Places
from celeriac.settings import Settings
from celeriac.wiring.options import anthropic, confinement, places, providers, tool_servers
from celeriac.wiring.prices import load_prices


def build_runners(settings: Settings) -> Registry:
    """Return what finds the runner of an agent; none is made yet."""
    bounds = confinement(settings, os.environ)
    if bounds.user.ids is not None:
        _close_places(places(settings))
    return Registry(
        providers=providers(settings),
        prices=load_prices(settings),
        agent_modules=(*settings.agent_modules, *declared_modules()),
        commands=settings.commands,
        tool_servers=tool_servers(settings, bounds),
        crewai_venv=settings.crewai,
        anthropic=anthropic(settings),
        sessions_root=places(settings).sessions,
        confinement=bounds,
    )


def _close_places(found: Places) -> None:
    """Keep agents, who own directories in these, from listing them: other users' are there too."""
    for directory in (found.workdirs, found.sessions):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        mode = stat.S_IMODE(directory.stat().st_mode)
        if mode & stat.S_IRWXO:
            directory.chmod(mode & ~stat.S_IRWXO)
