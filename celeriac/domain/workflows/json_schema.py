"""The JSON schema of workflow documents, for editors: docs/workflow.schema.json."""

from collections.abc import Mapping
from typing import Any, Final

from celeriac.domain.workflows.document import WorkflowDocument

ADDRESS: Final = (
    "https://raw.githubusercontent.com/celeriac/celeriac/main/docs/workflow.schema.json"
)

_KINDS = ("task", "workflow", "approve")


def document_schema() -> dict[str, Any]:
    """Return the JSON schema (2020-12) of a document, as it is written.

    It describes shapes. What holds between steps is checked by `celeriac workflows validate`.
    """
    schema = _tidied(WorkflowDocument.model_json_schema())
    schema["properties"]["steps"]["additionalProperties"] = False
    schema["$defs"]["Step"]["oneOf"] = [
        {"required": [kind], "properties": {kind: {"type": "string"}}} for kind in _KINDS
    ]
    first = ("workflow", "description", "input")
    properties = schema["properties"]
    ordered = {name: properties[name] for name in [*first, *properties] if name != "order"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": ADDRESS,
        "title": "Celeriac workflow",
        **schema,
        "properties": ordered,
    }


def _tidied(part: Any, *, names: bool = False) -> Any:
    """Return a part without generated titles; `names` says that its keys are names of fields."""
    if isinstance(part, list):
        return [_tidied(each) for each in part]
    if not isinstance(part, Mapping):
        return part
    return {
        key: _tidied(value, names=not names and key in {"properties", "$defs"})
        for key, value in part.items()
        if names or key != "title"
    }
