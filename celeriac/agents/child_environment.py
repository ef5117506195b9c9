"""What a child process may see of its worker's environment: never its secrets."""

from collections.abc import Iterable, Mapping

_PASSED_ON = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR",
        "LANG", "LANGUAGE", "TZ", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
        "SSL_CERT_FILE", "SSL_CERT_DIR",
    }
)  # fmt: skip
_LOCALE_PREFIX = "LC_"


def child_environment(environment: Mapping[str, str], names: Iterable[str] = ()) -> dict[str, str]:
    """Return the part of `environment` that a child gets: what programs need, and `names`.

    Names that aren't set are left out.
    """
    allowed = _PASSED_ON | frozenset(names)
    return {
        name: value
        for name, value in environment.items()
        if name in allowed or name.startswith(_LOCALE_PREFIX)
    }
