"""The settings of repositories of git."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints
from pydantic_settings import NoDecode

from celeriac.settings.sections import Group, read_names

RepositoryPrefix = Annotated[
    str, StringConstraints(pattern=r"^(https|ssh|file)://[A-Za-z0-9_.~+%@=,:/-]*$")
]


class RepositorySettings(Group, env_prefix="CELERIAC_REPOSITORIES_"):
    """Repositories of git in which agents work; `CELERIAC_REPOSITORIES_…`."""

    allow: Annotated[tuple[RepositoryPrefix, ...], NoDecode, BeforeValidator(read_names)] = (
        "https://",
    )
    """Beginnings of the URLs that tasks may use, separated by commas: `https://` allows all public
    servers, `https://github.com/acme` the repositories of acme. `ssh://…` uses the keys of the
    worker's user, `file:///…` directories of its machine. Empty: none."""
    commands: Literal["confined", "always", "never"] = "confined"
    """Where tasks may have commands in `setup` and `verify`: only where agents are confined, always
    or never."""
    fetch_seconds: float = Field(default=300.0, gt=0)
    """Time limit of a fetch."""
    fetch_mb: int = Field(default=2_048, ge=1)
    """Size of what one fetch may bring."""
    patch_mb: int = Field(default=20, ge=1)
    """Size of a patch, and of a bundle, that is kept."""
    cache_mb: int = Field(default=20_000, ge=0)
    """Size of all fetched repositories on a machine; the least recently used ones are removed."""
    cache_days: float = Field(default=30.0, gt=0)
    """A fetched repository that was not used for so many days is removed."""
