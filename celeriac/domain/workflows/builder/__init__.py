"""Workflows built in Python. The builder makes the document of docs/workflows.md, nothing else."""

import re
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin

from celeriac.domain.limits import RUN_KEY_FIELDS
from celeriac.domain.workflows.builder.steps import BuiltStep, Steps, plain
from celeriac.domain.workflows.builder.terms import Term, written
from celeriac.domain.workflows.document import parse
from celeriac.domain.workflows.model import WorkflowSpec, is_schema

_NAMES: Final = {
    str: "string", int: "integer", float: "number", bool: "boolean", dict: "object", list: "array",
}  # fmt: skip
_SETTABLE: Final = ("deadline", "on_failure", "priority", "description")


class Workflow:
    """A workflow. Its steps are added in any order; what they refer to decides when they run.

    `w.input`, `w.run`, `w.item`, `w.index`, `w.result` and `w.error` stand for values of the run.
    """

    def __init__(
        self,
        name: str,
        *,
        input: Mapping[str, Any] | None = None,  # noqa: A002 - as in documents
        description: str = "",
    ) -> None:
        """`input` has for each field a type, a default, a JSON schema, or a name of a type.

        Raises TypeError for other values.
        """
        self.name: Final = name
        self._top: dict[str, Any] = {"description": description} if description else {}
        self._input = _input(input or {})
        self._limits: list[dict[str, Any]] = []
        self._steps: dict[str, BuiltStep] = {}
        self._returns: Any = None

    @property
    def input(self) -> Term:
        """The input of the run."""
        return Term("input", owner=self)

    @property
    def run(self) -> Term:
        """The run: id, workflow, version, owner, workspace, created_at, status, error, schedule."""
        return Term("run", owner=self)

    @property
    def item(self) -> Term:
        """The item of a map."""
        return Term("item", owner=self)

    @property
    def index(self) -> Term:
        """The index of an item or of a round, from 0."""
        return Term("index", owner=self)

    @property
    def result(self) -> Term:
        """The result of a repeated step's last round."""
        return Term("result", owner=self)

    @property
    def error(self) -> Term:
        """The error of the run, for steps with run="failure" and run="always"."""
        return self.run.error

    def step(
        self, task: str, id_: str | None = None, /, *, after: Steps = (), **variables: Any
    ) -> BuiltStep:
        """Add a step that runs a task; its id is made of the task's name if none is given."""
        return self._add(id_ or _id(task), {"task": task}, after, variables)

    def workflow(
        self, name: str, id_: str | None = None, /, *, after: Steps = (), **variables: Any
    ) -> BuiltStep:
        """Add a step that runs another workflow, with its input."""
        return self._add(id_ or _id(name), {"workflow": name}, after, variables)

    def map(
        self,
        task: str,
        id_: str | None = None,
        /,
        *,
        over: Any,
        after: Steps = (),
        **variables: Any,
    ) -> BuiltStep:
        """Add a step that runs a task once for each item of the list `over`."""
        return self.step(task, id_, after=after, **variables).over(over)

    def approve(
        self, question: str, id_: str | None = None, /, *, show: Any = None, after: Steps = ()
    ) -> BuiltStep:
        """Add a step that asks a person, who sees `show`."""
        fields = {"approve": question} | ({} if show is None else {"show": show})
        return self._add(id_ or "approve", fields, after, {})

    def limit(self, key: str | Term, *, max: int, **fields: Any) -> None:  # noqa: A002 - as in documents
        """Limit how many runs with the same key may run; the key is a term or `crm:{owner}`.

        In braces are fields of the run, or `input.FIELD`. Raises ValueError.
        """
        made = written(key) if isinstance(key, Term) else _key(key)
        self._limits.append({"key": made, "max": max, **fields})

    def set(self, **fields: Any) -> None:
        """Set deadline, on_failure, priority or description. Raises TypeError for others."""
        for name in fields:
            if name not in _SETTABLE:
                raise TypeError(f"a workflow has no field {name}: there are {', '.join(_SETTABLE)}")
        self._top.update(fields)

    def returns(self, value: Any) -> None:
        """Set the result of a run; it may hold terms."""
        self._returns = value

    def to_dict(self) -> dict[str, Any]:
        """Return the document. Raises TypeError for values that are no JSON."""
        made: dict[str, Any] = {"workflow": self.name, **self._top}
        if self._input:
            made["input"] = self._input
        if self._limits:
            made["limits"] = [dict(limit) for limit in self._limits]
        made["steps"] = {id_: step.to_dict() for id_, step in self._steps.items()}
        if self._returns is not None:
            made["returns"] = plain(self._returns, "returns", self)
        return made

    def spec(self) -> WorkflowSpec:
        """Return the specification. Raises WorkflowInvalidError with all faults."""
        return parse(self.to_dict()).spec

    def _add(
        self, id_: str, fields: dict[str, Any], after: Steps, variables: dict[str, Any]
    ) -> BuiltStep:
        free = next(each for each in _numbered(id_) if each not in self._steps)
        step = BuiltStep(self, free, {**fields, **({"with": variables} if variables else {})})
        self._steps[free] = step
        return step.after(after)

    def __repr__(self) -> str:
        return f"<workflow {self.name}: {', '.join(self._steps)}>"


def _numbered(id_: str) -> Iterator[str]:
    yield id_
    number = 2
    while True:
        yield f"{id_}_{number}"
        number += 1


def _id(name: str) -> str:
    made = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    return made if made[:1].isalpha() else f"step_{made}"


def _input(fields: Mapping[str, Any]) -> dict[str, Any]:
    if is_schema(fields):
        return dict(fields)
    return {name: _field(name, kind) for name, kind in fields.items()}


def _field(name: str, kind: Any) -> Any:
    if isinstance(kind, type) and kind in _NAMES:
        return _NAMES[kind]
    if get_origin(kind) in {list, dict}:
        return _NAMES[get_origin(kind)]
    if get_origin(kind) in {Union, UnionType}:
        (one, *more) = [each for each in get_args(kind) if each is not NoneType]
        inner = _field(name, one)
        if not more and isinstance(inner, str) and NoneType in get_args(kind):
            return f"{inner}?"
    elif isinstance(kind, str) and kind.removesuffix("?") in _NAMES.values():
        return kind
    elif isinstance(kind, Mapping):
        return dict(kind)
    elif type(kind) in _NAMES:
        return {"type": _NAMES[type(kind)], "default": kind}
    raise TypeError(
        f"input {name}: give a type ({', '.join(each.__name__ for each in _NAMES)}), a default, or "
        "a JSON schema"
    )


def _key(template: str) -> str:
    parts = []
    for index, part in enumerate(re.split(r"\{([^{}]*)\}", template)):
        if index % 2 == 0:
            parts += [f"'{_quoted(part)}'"] if part else []
        elif part in RUN_KEY_FIELDS:
            parts.append(f"run.{part}")
        elif part.startswith("input."):
            parts.append(f"string({part})")
        else:
            raise ValueError(
                f"limit {template!r}: {{{part}}} is no field of the run; write one of "
                f"{', '.join(RUN_KEY_FIELDS)}, or input.FIELD"
            )
    return " + ".join(parts) or "''"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
