"""What a worker lets its child processes see, and whom they run as."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from celeriac.domain.environment import FIELD, EnvironmentRule
from celeriac.domain.errors import AgentMisconfiguredError
from celeriac.kit.users import OURSELVES, ChildUser

_PASSED_ON = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR",
        "LANG", "LANGUAGE", "TZ", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
        "SSL_CERT_FILE", "SSL_CERT_DIR",
    }
)  # fmt: skip
_LOCALE_PREFIX = "LC_"


@dataclass(frozen=True, slots=True)
class Confinement:
    """The bounds of a worker's child processes.

    `worker` is the worker's own environment, `rule` says which of it agents may name, `user` is
    who the processes run as.
    """

    worker: Mapping[str, str] = field(repr=False)
    rule: EnvironmentRule = field(default_factory=EnvironmentRule)
    user: ChildUser = OURSELVES

    def environment(self, names: Collection[str] = (), *, home: Path) -> dict[str, str]:
        """Return the environment of a child: what programs need, and what its agent `names`.

        `home` is the home directory of a child that runs as another user. Variables that aren't
        set are left out. Raises AgentMisconfiguredError where the rule refuses a name.
        """
        refusal = self.rule.refusal(names)
        if refusal:
            raise AgentMisconfiguredError(refusal, field=FIELD)
        named = {name: self.worker[name] for name in names if name in self.worker}
        return {**self.base(), **self.user.variables(home), **named}

    def base(self) -> dict[str, str]:
        """Return what every program needs; nothing in it depends on where the program runs."""
        replaced = self.user.variables(Path())
        return {
            name: value
            for name, value in self.worker.items()
            if (name in _PASSED_ON and name not in replaced) or name.startswith(_LOCALE_PREFIX)
        }
