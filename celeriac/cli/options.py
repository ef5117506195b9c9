"""Options that several commands share, said once."""

from pathlib import Path
from typing import Annotated

import typer

_SERVER = "Which server"

Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        envvar="CELERIAC_HOME",
        metavar="DIRECTORY",
        help="Where Celeriac keeps its data; .celeriac in the current directory if not given.",
        show_default=False,
    ),
]

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for programs.")]

ApiUrl = Annotated[
    str | None,
    typer.Option(
        "--api-url",
        envvar="CELERIAC_API_URL",
        metavar="URL",
        help="Address of the API; that of the stack running in the home if not given.",
        rich_help_panel=_SERVER,
    ),
]

ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="CELERIAC_API_KEY",
        metavar="KEY",
        help="API key; the home's own if not given.",
        rich_help_panel=_SERVER,
        show_envvar=True,
    ),
]

ServerHome = Annotated[
    Path | None,
    typer.Option(
        "--home",
        envvar="CELERIAC_HOME",
        metavar="DIRECTORY",
        help="Home whose running stack is asked; .celeriac in the current directory if not given.",
        show_default=False,
        rich_help_panel=_SERVER,
    ),
]

Limit = Annotated[
    int, typer.Option("--limit", "-n", min=1, help="How many to show, the newest first.")
]
