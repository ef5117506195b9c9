"""The environment variables of a worker that agents may pass to their child processes."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase

SETTING = "CELERIAC_AGENT_ENVIRONMENT"
FIELD = "environment"

_OUR_PREFIXES = re.compile(r"(?i:CELERIAC|CELERY)_")


@dataclass(frozen=True, slots=True)
class EnvironmentRule:
    """An administrator's list of the variables that agents may name.

    `allowed` has names and patterns with `*` and `?`. `reserved` are the variables, in upper case,
    that configure Celeriac itself. They may contain secrets, and no list can allow them.
    """

    allowed: tuple[str, ...] = ()
    reserved: frozenset[str] = frozenset()

    def refusal(self, names: Collection[str]) -> str:
        """Return why an agent may not name `names`, with the cure, or an empty text."""
        ours = self.reserved_among(names)
        if ours:
            return (
                f"The agent's environment names {', '.join(ours)}, which configures Celeriac "
                "itself. Give the agent variables of its own."
            )
        refused = sorted(name for name in names if not self._is_allowed(name))
        if refused:
            return (
                f"The agent's environment names {', '.join(refused)}, which agents may not see. "
                f"Leave it out, or have an administrator add it to {SETTING}, for the API and the "
                "workers, and restart them."
            )
        return ""

    def reserved_among(self, names: Collection[str]) -> list[str]:
        """Return those of `names` that configure Celeriac, in order."""
        return sorted(name for name in names if self._is_reserved(name))

    def _is_reserved(self, name: str) -> bool:
        return name.upper() in self.reserved or _OUR_PREFIXES.match(name) is not None

    def _is_allowed(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.allowed)
