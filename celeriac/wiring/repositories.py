"""Repositories of git, from the settings."""

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.repository.change import Collector
from celeriac.agents.repository.mirrors import MirrorLimits, Mirrors
from celeriac.agents.repository.runner import Repositories
from celeriac.domain.repositories import RepositoryRule
from celeriac.services.repositories import RepositoryCheck
from celeriac.services.storage_paths import StoragePaths
from celeriac.settings import Settings

_MEGABYTE = 1024 * 1024
_DAY = 86_400.0


def repository_rule(settings: Settings) -> RepositoryRule:
    """Return which repositories tasks may use, and whether these may have commands."""
    asked = settings.repositories
    confined = settings.confinement.driver != "none"
    return RepositoryRule(
        asked.allow, asked.commands == "always" or (asked.commands == "confined" and confined)
    )


def repository_check(settings: Settings) -> RepositoryCheck:
    """Return what is allowed for the repositories of tasks."""
    return RepositoryCheck(repository_rule(settings), settings.outbound.guard())


def repositories(settings: Settings, bounds: Confinement, places: StoragePaths) -> Repositories:
    """Return what makes checkouts in a worker."""
    asked = settings.repositories
    return Repositories(
        rule=repository_rule(settings),
        mirrors=Mirrors(
            (settings.home / "repositories").absolute(),
            settings.outbound.guard(),
            MirrorLimits(
                fetch_seconds=asked.fetch_seconds,
                fetch_bytes=asked.fetch_mb * _MEGABYTE,
                cache_bytes=asked.cache_mb * _MEGABYTE,
                cache_seconds=asked.cache_days * _DAY,
            ),
        ),
        collector=Collector(confinement=bounds, patch_bytes=asked.patch_mb * _MEGABYTE),
        confinement=bounds,
        places=places,
    )
