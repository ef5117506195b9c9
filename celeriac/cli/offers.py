"""Functions that modules on this machine offer with `@celeriac.agent`."""

import importlib
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeriac.cli.core.output import CommandError, UsageProblemError

if TYPE_CHECKING:
    from celeriac import wire
    from celeriac.client import Client
    from celeriac.client.documents import Document

MODULES = "CELERIAC_AGENT_MODULES"
_MOST_FILES = 500
_MOST_DESCRIPTION = 2_000


@dataclass(frozen=True, slots=True)
class Offer:
    """A function that a module offers, as agent and task of one name."""

    name: str
    path: str
    description: str
    schema: dict[str, Any]


def offers_of(module: str) -> list[Offer]:
    """Import a module of this machine and return what it, or what is in it, offers.

    The current directory is looked into last, as by workers. Raises UsageProblemError.
    """
    from celeriac.agents.python.functions import find_function, registered_agents
    from celeriac.agents.python.variables import variables_schema
    from celeriac.domain.errors import AgentMisconfiguredError

    _see_current_directory()
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise UsageProblemError(
            f"The module {module} can't be imported: {type(error).__name__}: {error}.",
            cure="Run the command where the module can be imported, as a worker would.",
        ) from error
    found = []
    for name, path in registered_agents().items():
        origin = path.partition(":")[0]
        if origin != module and not origin.startswith(f"{module}."):
            continue
        try:
            function = find_function(path, (module,))
        except AgentMisconfiguredError as error:
            raise UsageProblemError(error.message) from error
        text = (inspect.getdoc(function.call) or "").partition("\n\n")[0].replace("\n", " ")
        schema = variables_schema(function.call)
        found.append(Offer(name, path, text[:_MOST_DESCRIPTION], schema))
    if not found:
        raise UsageProblemError(
            f"The module {module} offers no functions.",
            cure='Decorate them with @celeriac.agent("name"), or name the module that has them.',
        )
    return found


def document_of(client: "Client", offers: Sequence[Offer]) -> "Document":
    """Return a document of agents and tasks for `offers`.

    Of those that exist already only the function, the description and the schema of the variables
    are changed. Raises CommandError where something else has the name.
    """
    from celeriac.client.documents import Document

    agents, tasks = [], []
    for offer in offers:
        agent, task = _existing(client, offer.name)
        if agent is not None and agent.spec.runner != "python":
            raise _taken(offer, f"There is an agent {offer.name!r} already, of another kind")
        if task is not None and task.agent.name != offer.name:
            raise _taken(offer, f"The task {offer.name!r} is done by the agent {task.agent.name!r}")
        agent_spec = agent.spec.model_dump(mode="json") if agent else {"runner": "python"}
        task_spec = task.spec.model_dump(mode="json") if task else {}
        agents.append(
            {
                "name": offer.name,
                "description": offer.description,
                "spec": {**agent_spec, "function": offer.path},
            }
        )
        tasks.append(
            {
                "name": offer.name,
                "agent": offer.name,
                "description": offer.description,
                "spec": {**task_spec, "variables_schema": offer.schema},
            }
        )
    return Document({"agents": agents, "tasks": tasks})


def without(document: "Document", given: "Document") -> "Document":
    """Return a document without the agents and tasks that `given` has."""
    from celeriac.client.documents import Document

    def names(section: str) -> set[object]:
        entries = given.content.get(section)
        found = entries if isinstance(entries, list) else []
        return {entry.get("name") for entry in found if isinstance(entry, dict)}

    return Document(
        {
            section: [entry for entry in entries if entry["name"] not in names(section)]
            for section, entries in document.content.items()
        }
    )


def unlisted(modules: Sequence[str]) -> list[str]:
    """Return those of `modules` that this environment doesn't let workers import."""
    from celeriac.agents.python.functions import declared_modules

    listed = (*_listed(), *declared_modules())
    return [
        module
        for module in modules
        if not any(module == each or module.startswith(f"{each}.") for each in listed)
    ]


def module_that_offers(name: str) -> str | None:
    """Return the module on this machine that offers the agent `name`, by its source alone.

    Looks through the modules of CELERIAC_AGENT_MODULES and the current directory; imports nothing.
    """
    from celeriac.agents.python.source import module_files, offers

    here = Path.cwd()
    found = [(file.stem, file) for file in sorted(here.glob("*.py"))]
    for module in _listed():
        found += module_files(module, [*sys.path, str(here)])
    return next((module for module, file in found[:_MOST_FILES] if offers(file, name)), None)


def _see_current_directory() -> None:
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.append(directory)


def _existing(client: "Client", name: str) -> "tuple[wire.Agent | None, wire.Task | None]":
    from celeriac.client import ClientError

    def found(get: Any) -> Any:
        try:
            return get(name)
        except ClientError as error:
            if error.code != "not_found":
                raise
            return None

    return found(client.agents.get), found(client.tasks.get)


def _taken(offer: Offer, reason: str) -> CommandError:
    return CommandError(
        f"{reason}; {offer.path} can't take its place. Nothing was changed.",
        cure="Give the function another name in @celeriac.agent(…), or delete the other one.",
        problem="name_taken",
    )


def _listed() -> tuple[str, ...]:
    from celeriac.settings import Settings

    return Settings.load().agent_modules


def hint_for(task: str) -> str | None:
    """Return which command makes a task that is missing, where its function is found here."""
    module = module_that_offers(task)
    if module is None:
        return None
    return f"`celeriac apply --module {module}` makes it of the function that has its name."
