"""What the child processes of a worker's agents may see and reach."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from celeriac.agents.network.rules import NetworkBounds, NetworkRules
from celeriac.domain.confinement import AgentConfinement, Driver
from celeriac.domain.environment import FIELD, EnvironmentRule
from celeriac.domain.errors import (
    AgentMisconfiguredError,
    ConfigurationError,
    WorkerMisconfiguredError,
)
from celeriac.kit.sandbox import Sandbox, environment_inside
from celeriac.kit.threads import PROCESSES
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
    """The environment, the user and the sandbox of a worker's child processes.

    `worker` is the worker's environment, `rule` decides which of its variables agents may name, and
    `user` is the user that the processes run as. Without a `sandbox` they see what that user sees.
    `for_agent` returns what holds for an agent: in a network of their own, its processes reach what
    `rules` allow.
    """

    worker: Mapping[str, str] = field(repr=False)
    rule: EnvironmentRule = field(default_factory=EnvironmentRule)
    user: ChildUser = OURSELVES
    sandbox: Sandbox | None = None
    bounds: NetworkBounds = field(default_factory=NetworkBounds)
    """What agents may ask of the network."""
    stricter: Callable[[Driver], Sandbox] | None = None
    """Returns the sandbox of agents that demand a stricter driver than the worker's agents have;
    blocks, and raises ConfigurationError with the cure where there can't be one."""
    rules: NetworkRules | None = None

    async def for_agent(self, asked: AgentConfinement) -> "Confinement":
        """Return the confinement of an agent that asks for `asked`, which is never less strict.

        Raises WorkerMisconfiguredError where the worker can't confine it so, or does not allow it a
        destination: another worker may.
        """
        sandbox = self.sandbox
        wanted = asked.driver or Driver.BUBBLEWRAP
        if asked.demanded and (sandbox is None or not wanted.is_met_by(sandbox.driver)):
            sandbox = await self._stricter(wanted)
        if sandbox is None:
            return self
        if asked.network is not None and sandbox.shares_network:
            sandbox = replace(sandbox, shares_network=False)
        rules = None if sandbox.shares_network else self.bounds.rules(asked.network)
        return replace(self, sandbox=sandbox, rules=rules)

    async def _stricter(self, driver: Driver) -> Sandbox:
        try:
            if self.stricter is None:
                raise ConfigurationError("This worker has no sandboxes.")
            return await PROCESSES.run(self.stricter, driver)
        except ConfigurationError as error:
            raise WorkerMisconfiguredError(
                f"The agent must be confined, and this worker can't do that. {error.message}",
                field="confinement.driver",
            ) from error

    def environment(self, names: Collection[str] = (), *, home: Path) -> dict[str, str]:
        """Return the environment of a child: the base variables, and those that its agent `names`.

        `home` is the home directory of a child that runs as another user. Variables that aren't
        set are omitted. Raises AgentMisconfiguredError if the rule refuses a name.
        """
        refusal = self.rule.refusal(names)
        if refusal:
            raise AgentMisconfiguredError(refusal, field=FIELD)
        named = {name: self.worker[name] for name in names if name in self.worker}
        given = {**self.base(), **self.user.variables(home)}
        if self.sandbox is not None:
            given = environment_inside(given, home)
        return {**given, **named}

    def base(self) -> dict[str, str]:
        """Return the variables that every program gets, wherever it runs."""
        replaced = self.user.variables(Path())
        return {
            name: value
            for name, value in self.worker.items()
            if (name in _PASSED_ON and name not in replaced) or name.startswith(_LOCALE_PREFIX)
        }
