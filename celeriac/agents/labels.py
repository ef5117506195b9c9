"""The tool with which agents label their own execution, as each kind of runner offers it."""

from collections.abc import Mapping

from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.services.ports import RunContext

LABEL_TOOL = "label_execution"

DESCRIPTION = (
    "Set labels of the work that you do now, so that people find it in lists. Labels are keys with "
    "short texts, such as language: en; null removes one. Returns all labels that are set then."
)

SCHEMA: JsonObject = {
    "type": "object",
    "properties": {
        "labels": {
            "type": "object",
            "description": "The texts by their keys.",
            "additionalProperties": {"type": ["string", "null"]},
        }
    },
    "required": ["labels"],
    "additionalProperties": False,
}


async def change_labels(context: RunContext, labels: Mapping[str, JsonValue]) -> JsonObject:
    """Change the labels of the attempt's execution; return all that it has then.

    Raises InvalidInputError, which names the label, and LeaseLostError.
    """
    return dict(await context.label(labels))
