"""Prompt templates: a small, safe part of Jinja (docs/prompts.md).

Jinja parses a template, and its syntax is checked against an allow-list (`language`). A walk over
the syntax tree renders it (`evaluation`) and counts all work against a limit before doing it
(`work`), so that the cost of a template is bounded for all values.
"""

from jinja2 import nodes

from celeriac.domain.errors import TemplateInvalidError
from celeriac.domain.prompts.evaluation import MAX_LOOP_ROUNDS, Evaluation
from celeriac.domain.prompts.language import parse, variables_of
from celeriac.domain.prompts.values import fault
from celeriac.domain.prompts.work import BATCH_WORK, MAX_RENDERED_CHARACTERS, MAX_WORK, WorkLimit
from celeriac.kit.cache import WeighedCache
from celeriac.kit.json_types import JsonObject, JsonValue

__all__ = [
    "BATCH_WORK",
    "MAX_LOOP_ROUNDS",
    "MAX_RENDERED_CHARACTERS",
    "MAX_WORK",
    "Prompt",
    "WorkLimit",
    "check_template",
    "compiled",
]

_CACHED_CHARACTERS = 4_000_000


class Prompt:
    """A parsed template; created once for each source and shared between threads."""

    def __init__(self, source: str) -> None:
        """Parse `source`; raises TemplateInvalidError naming the line and the cure."""
        self._tree: nodes.Template
        self._tree, self.size = parse(source)
        self.variables = variables_of(self._tree)

    def render(self, variables: JsonObject, work: WorkLimit | None = None) -> str:
        """Return the prompt for `variables`; its work counts against `work`, or a new limit.

        Raises TemplateRenderError for a missing variable, a value that an operation can't use,
        more than 10,000 loop rounds or 1,000,000 characters, and too much work; BusyError if too
        many other threads render long prompts.
        """
        if work is None:
            with WorkLimit() as own:
                return self.render(variables, own)
        try:
            return Evaluation(variables, work).text(self._tree)
        except (TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise fault(str(error)) from error
        except RecursionError as error:
            raise fault("the values are nested too deeply") from error


_prompts: WeighedCache[str, Prompt] = WeighedCache(_CACHED_CHARACTERS)


def compiled(source: str) -> Prompt:
    """Return the parsed template of `source`, from a cache."""
    return _prompts.get(source, lambda: Prompt(source), len(source) + 500)


def check_template(source: str, schema: JsonObject) -> None:
    """Raise TemplateInvalidError if a task's template is not valid.

    If the schema lists properties, every variable that the template reads must be one of them: a
    typing error is found when the task is created, not when it runs.
    """
    read = compiled(source).variables
    known: JsonValue = schema.get("properties")
    missing = sorted(read - set(known)) if isinstance(known, dict) else []
    if missing:
        raise TemplateInvalidError(
            f"The prompt template reads {', '.join(missing)}, which variables_schema doesn't "
            "have: add it to its properties or correct the name.",
            field="prompt",
            variables=missing,
        )
