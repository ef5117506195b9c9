"""Warnings about an agent's specification, from the configuration of this process."""

import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from celeriac.agents.gateway.served_models import model_names
from celeriac.agents.models import LOCAL, Provider, Providers
from celeriac.agents.network.rules import NetworkBounds
from celeriac.agents.python.functions import is_allowed
from celeriac.agents.python.source import defined_names, module_files
from celeriac.domain.agents import AgentSpec, CommandAgent, CrewaiAgent, LlmAgent, PythonAgent
from celeriac.domain.confinement import AgentConfinement
from celeriac.domain.errors import AgentMisconfiguredError, WorkerMisconfiguredError

_TIMEOUT = 2.0
_REMEMBER_SECONDS = 10.0


@dataclass(kw_only=True, eq=False, repr=False)
class Advice:
    """Checks agents by the configuration of this process, when they are created.

    Programs are looked up on `search_path`. Safe to share between threads.
    """

    providers: Providers
    commands: Mapping[str, Sequence[str]]
    modules: Sequence[str]
    search_path: str
    bounds: NetworkBounds = field(default_factory=NetworkBounds)
    """What agents may ask of the network."""
    _served: tuple[float, frozenset[str]] = field(default=(0.0, frozenset()), init=False)

    def warnings(self, spec: AgentSpec) -> list[str]:
        """Return what would fail on workers with the configuration of this process.

        May read the models of the local server, for two seconds at most. Imports no user code.
        """
        return [*self._of_runner(spec), *self._of_network(spec.confinement)]

    def _of_network(self, asked: AgentConfinement) -> Iterator[str]:
        try:
            self.bounds.rules(asked.network)
        except WorkerMisconfiguredError as error:
            yield error.message

    def _of_runner(self, spec: AgentSpec) -> list[str]:
        match spec:
            case LlmAgent():
                return [*self._of_model(spec.model)]
            case CrewaiAgent():
                models = {agent.model for agent in spec.crew.agents}
                return [each for model in sorted(models) for each in self._of_model(model)]
            case PythonAgent():
                return [*self._of_function(spec.function)]
            case CommandAgent():
                return [*self._of_command(spec.command)]
            case _:
                return []

    def _of_model(self, name: str) -> Iterator[str]:
        try:
            choice = self.providers.choose(name)
        except AgentMisconfiguredError as error:
            yield error.message
            return
        if choice.provider.name == LOCAL:
            served = self._served_by(choice.provider)
            if served and choice.model not in served:
                yield (
                    f"The local model server has no {choice.model!r}; it has: "
                    f"{', '.join(f'{LOCAL}/{each}' for each in sorted(served))}."
                )

    def _served_by(self, provider: Provider) -> frozenset[str]:
        """Return the models that the local server lists, read at most every few seconds."""
        until, served = self._served
        if time.monotonic() < until:
            return served
        address = f"{provider.base_url.rstrip('/')}/models"
        import httpx  # slow to import, and seldom asked

        try:
            served = model_names(httpx.get(address, timeout=_TIMEOUT, trust_env=False).json())
        except (httpx.HTTPError, ValueError):
            served = frozenset()
        self._served = (time.monotonic() + _REMEMBER_SECONDS, served)
        return served

    def _of_function(self, path: str) -> Iterator[str]:
        module, _, name = path.partition(":")
        if not is_allowed(module, self.modules):
            yield (
                f"{module} is not among the modules that agents may use here. Add it, or its "
                "package, to CELERIAC_AGENT_MODULES for the workers."
            )
            return
        here = str(Path.cwd())
        files = dict(module_files(module, [*sys.path, here]))
        if module not in files:
            yield (
                f"There is no module {module} here, neither installed nor in {here}. Workers must "
                "be able to import it."
            )
            return
        names = defined_names(files[module])
        if names is not None and name not in names:
            yield f"The module {module} has no {name!r}: {files[module]}."

    def _of_command(self, command: str) -> Iterator[str]:
        line = self.commands.get(command)
        if line is None:
            known = ", ".join(sorted(self.commands)) or "none"
            yield f"There is no command {command!r} here; CELERIAC_COMMANDS has: {known}."
        elif shutil.which(line[0], path=self.search_path) is None:
            yield f"The program of the command {command!r}, {line[0]}, can't be run here."
