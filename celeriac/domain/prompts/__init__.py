"""Prompt templates: a small, safe part of Jinja (docs/prompts.md).

Jinja parses them; what they may be written with is an allow-list, checked when they are made
(`language`). They are rendered by a walk over the tree (`evaluation`) that pays for all work before
it is done (`budget`), so that a template's cost is bounded whatever it is given.
"""

from jinja2 import nodes

from celeriac.domain.errors import TemplateInvalidError
from celeriac.domain.prompts.budget import BATCH_WORK, MAX_RENDERED_CHARACTERS, MAX_WORK, Budget
from celeriac.domain.prompts.evaluation import MAX_LOOP_ROUNDS, Evaluation
from celeriac.domain.prompts.language import parse, variables_of
from celeriac.domain.prompts.values import fault
from celeriac.kit.cache import WeighedCache
from celeriac.kit.json_types import JsonObject, JsonValue

__all__ = [
    "BATCH_WORK",
    "MAX_LOOP_ROUNDS",
    "MAX_RENDERED_CHARACTERS",
    "MAX_WORK",
    "Budget",
    "Prompt",
    "check_template",
    "compiled",
]

_CACHED_CHARACTERS = 4_000_000


class Prompt:
    """A parsed template; made once per task version and shared between threads."""

    def __init__(self, source: str) -> None:
        """Parse `source`; raises TemplateInvalidError naming the line and the cure."""
        self._tree: nodes.Template
        self._tree, self.size = parse(source)
        self.variables = variables_of(self._tree)

    def render(self, variables: JsonObject, budget: Budget | None = None) -> str:
        """Return the prompt for `variables`, paid for from `budget`, by default one of its own.

        Raises TemplateRenderError for a missing variable, a value that an operation can't take,
        more than 10,000 loop rounds, 1,000,000 characters or too much work; UnavailableError where
        too many others render long prompts.
        """
        if budget is None:
            with Budget() as own:
                return self.render(variables, own)
        try:
            return Evaluation(variables, budget).text(self._tree)
        except (TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise fault(str(error)) from error
        except RecursionError as error:
            raise fault("the values are nested too deeply") from error


_prompts: WeighedCache[str, Prompt] = WeighedCache(_CACHED_CHARACTERS)


def compiled(source: str) -> Prompt:
    """Return the parsed template of `source`, from a cache."""
    return _prompts.get(source, lambda: Prompt(source), len(source) + 500)


def check_template(source: str, schema: JsonObject) -> None:
    """Accept a task's template or raise TemplateInvalidError.

    Every variable that the template reads must be a property of the schema, where the schema
    lists properties, so that a typing error is found when the task is made and not at night.
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
