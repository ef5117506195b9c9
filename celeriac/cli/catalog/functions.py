"""Functions of modules on this machine that are decorated with `@celeriac.agent`."""

import importlib
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeriac.cli.core.output import CommandError, UsageProblemError
from celeriac.cli.core.server import load_own_settings

if TYPE_CHECKING:
    from celeriac import wire
    from celeriac.client import Client
    from celeriac.client.documents import Document

MODULES = "CELERIAC_AGENT_MODULES"
_MAX_FILES = 500
_MAX_DESCRIPTION = 2_000


@dataclass(frozen=True, slots=True)
class AgentFunction:
    """A decorated function; `name` is that of its agent and of its task."""

    name: str
    path: str
    description: str
    schema: dict[str, Any]


def functions_in(module: str) -> list[AgentFunction]:
    """Import a module or package and return its decorated functions.

    The current directory is searched last, as by workers. Raises UsageProblemError.
    """
    from celeriac.agents.python.functions import find_function, registered_agents
    from celeriac.agents.python.variables import variables_schema
    from celeriac.domain.errors import AgentMisconfiguredError

    if (directory := str(Path.cwd())) not in sys.path:
        sys.path.append(directory)
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise UsageProblemError(
            f"The module {module} can't be imported: {type(error).__name__}: {error}.",
            cure="Run the command in a directory from which workers can import the module.",
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
        found.append(AgentFunction(name, path, text[:_MAX_DESCRIPTION], schema))
    if not found:
        raise UsageProblemError(
            f"The module {module} has no agent functions.",
            cure='Decorate them with @celeriac.agent("name"), or name the module that has them.',
        )
    return found


def document_of(client: "Client", functions: Sequence[AgentFunction]) -> "Document":
    """Return a document with an agent and a task for each function.

    Existing ones keep everything but the function, the description and the variables schema. Raises
    CommandError if another agent or task has the name.
    """
    from celeriac.agents.python.functions import is_durable
    from celeriac.client.documents import Document

    agents, tasks = [], []
    for each in functions:
        agent, task = _existing(client, each.name)
        if agent is not None and agent.spec.runner != "python":
            raise _taken(each, f"There is an agent {each.name!r} already, of another kind")
        if task is not None and task.agent.name != each.name:
            raise _taken(each, f"The task {each.name!r} belongs to the agent {task.agent.name!r}")
        agent_spec = agent.spec.model_dump(mode="json") if agent else {"runner": "python"}
        task_spec = task.spec.model_dump(mode="json") if task else {}
        durable = {"durable": True} if is_durable(each.path) else {}
        agents.append(
            {
                "name": each.name,
                "description": each.description,
                "spec": {**agent_spec, "function": each.path, **durable},
            }
        )
        tasks.append(
            {
                "name": each.name,
                "agent": each.name,
                "description": each.description,
                "spec": {**task_spec, "variables_schema": each.schema},
            }
        )
    return Document({"agents": agents, "tasks": tasks})


def without(document: "Document", given: "Document") -> "Document":
    """Return a document without the agents and tasks that `given` has too."""
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
    """Return the modules that workers with this environment don't import."""
    from celeriac.agents.python.functions import declared_modules

    listed = (*load_own_settings(None).agent_modules, *declared_modules())
    return [
        module
        for module in modules
        if not any(module == each or module.startswith(f"{each}.") for each in listed)
    ]


def hint_for(task: str) -> str | None:
    """Return a hint to the command that creates a missing task from its function, if it is found.

    Searches the source of the modules of CELERIAC_AGENT_MODULES and the current directory, without
    importing them.
    """
    from celeriac.agents.python.source import module_files, offers

    here = Path.cwd()
    found = [(file.stem, file) for file in sorted(here.glob("*.py"))]
    for module in load_own_settings(None).agent_modules:
        found += module_files(module, [*sys.path, str(here)])
    for module, file in found[:_MAX_FILES]:
        if offers(file, task):
            return f"`celeriac apply --module {module}` creates it from the function of that name."
    return None


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


def _taken(function: AgentFunction, reason: str) -> CommandError:
    return CommandError(
        f"{reason}; {function.path} can't replace it. Nothing was changed.",
        cure="Give the function another name in @celeriac.agent(…), or delete the other one.",
        problem="name_taken",
    )
