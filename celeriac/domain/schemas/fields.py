"""Which fields values of a JSON schema can't have."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches

from celeriac.kit.json_types import JsonObject
from celeriac.kit.text import clip

_SHOWN = 60


def schema_lacks(schema: JsonObject, path: tuple[str, ...], whose: str) -> str | None:
    """Return a message if values of a schema can't have the field that `path` leads to, or None.

    Only objects that are written out in the schema are known.
    """
    part: object = schema
    for name in path:
        if not isinstance(part, Mapping):
            return None
        properties = part.get("properties")
        if not isinstance(properties, Mapping):
            return None
        if name not in properties:
            if part.get("additionalProperties", True) is not False or "patternProperties" in part:
                return None
            near = get_close_matches(name, properties, 1)
            cure = f"did you mean {near[0]}?" if near else f"it has {_listed(properties)}"
            return f"{whose} has no {clip(name, _SHOWN)}; {cure}"
        part = properties[name]
    return None


def _listed(properties: Collection[str]) -> str:
    names = [clip(name, _SHOWN) for name in properties][:10]
    return ", ".join(names) if names else "no fields"
