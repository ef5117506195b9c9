"""docs/configuration.md has every variable with its default, and no other."""

import re
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from celeriac.settings import GROUPS

PAGE = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text()
ROWS = {
    name: default.strip("` ")
    for name, default in re.findall(r"^\| `([A-Z_]+)` \| (.*?) ?\|", PAGE, re.MULTILINE)
}
CLIENTS = {"CELERIAC_API_URL": "", "CELERIAC_API_KEY": "", "CELERIAC_DEBUG": ""}


def test_every_variable_is_there_with_its_default() -> None:
    assert {**_variables(), **CLIENTS} == ROWS


def test_other_names_of_a_variable_are_told() -> None:
    for group in GROUPS:
        for field in group.model_fields.values():
            if isinstance(field.validation_alias, AliasChoices):
                for name in field.validation_alias.choices:
                    assert f"`{name}`" in PAGE


def test_a_variable_stands_on_the_page_once() -> None:
    assert len(re.findall(r"^\| `[A-Z_]+` \|", PAGE, re.MULTILINE)) == len(ROWS)


def _variables() -> dict[str, str]:
    return {
        _name(group, name, field): _written(field.get_default(call_default_factory=False))
        for group in GROUPS
        for name, field in group.model_fields.items()
        if not _is_group(field)
    }


def _is_group(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseSettings)


def _name(group: type[BaseSettings], name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        alias = str(alias.choices[0])
    return str(alias or f"{group.model_config['env_prefix']}{name}".upper())


def _written(value: Any) -> str:
    """Return a default as one would write it into the environment."""
    match value:
        case None | ():
            return ""
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case tuple():
            return ",".join(value)
        case SecretStr():
            return value.get_secret_value()
        case _:
            return str(value)
