"""`celeriac prices`: what model calls are thought to cost, on this machine."""

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.exits import CommandError, ExitCode
from celeriac.cli.options import Home, Json
from celeriac.cli.output import Output
from celeriac.domain.usage import dollars

if TYPE_CHECKING:
    from celeriac.agents.pricing import Prices

_MILLION = 1_000_000
_UNKNOWN = "not known"


def prices(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="As agents name it: provider/model.")
    ] = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Show your own prices, or what a model costs, in US dollars per million tokens.

    Your own are those of the file that CELERIAC_PRICES_FILE names, as workers started here see it.

    Examples:
      celeriac prices
      celeriac prices openai/gpt-5-mini
    """
    from celeriac.wiring import load_prices, load_settings, model_price

    settings = load_settings(home)
    table = load_prices(settings)
    output = Output(as_json=as_json)
    if model is None:
        _show_own(output, table)
        return
    read, written = (
        model_price(settings, table, model, input_tokens=count, output_tokens=_MILLION - count)
        for count in (_MILLION, 0)
    )
    if output.as_json:
        output.json({"model": model, "input": read, "output": written})
    else:
        output.fields({"model": model, "input": _shown(read), "output": _shown(written)})
    if read is None:
        raise CommandError(
            f"No price of {model} is known. Add it to the file that CELERIAC_PRICES_FILE names.",
            exit_code=ExitCode.NOT_FOUND,
        )


def _show_own(output: Output, table: "Prices") -> None:
    if output.as_json:
        output.json({"version": table.version, "prices": dict(table.own)})
        return
    output.say(f"Version {table.version}" if table.version else "No version is named.")
    output.table(
        ("MODEL", "INPUT", "CACHED INPUT", "OUTPUT"),
        (
            (name, _shown(each.input), _shown(each.cached_input, each.input), _shown(each.output))
            for name, each in sorted(table.own.items())
        ),
    )


def _shown(price: Decimal | None, otherwise: Decimal | None = None) -> str:
    price = otherwise if price is None else price
    return _UNKNOWN if price is None else f"${dollars(price)}"
