"""What a child process may see of its worker's environment: never its secrets."""

import re
from collections.abc import Collection, Mapping

from celeriac.domain.errors import AgentMisconfiguredError

_PASSED_ON = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR",
        "LANG", "LANGUAGE", "TZ", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
        "SSL_CERT_FILE", "SSL_CERT_DIR",
    }
)  # fmt: skip
_LOCALE_PREFIX = "LC_"
_OUR_OWN = re.compile(r"CELERIAC_.*|CELERY_.*|DATABASE_URL|REDIS_URL")


def child_environment(
    environment: Mapping[str, str], names: Collection[str] = ()
) -> dict[str, str]:
    """Return the part of `environment` that a child gets: what programs need, and `names`.

    Names that aren't set are left out. Raises AgentMisconfiguredError where `names` has one of
    Celeriac's own, which hold its secrets.
    """
    refused = sorted(name for name in names if _OUR_OWN.fullmatch(name))
    if refused:
        raise AgentMisconfiguredError(
            f"The agent's environment names {', '.join(refused)}, which is Celeriac's own. "
            "Give the agent's functions variables of their own.",
            field="environment",
        )
    allowed = _PASSED_ON | frozenset(names)
    return {
        name: value
        for name, value in environment.items()
        if name in allowed or name.startswith(_LOCALE_PREFIX)
    }
