"""The price table of a machine."""

from decimal import Decimal

from celeriac.agents.pricing import Prices, Tokens
from celeriac.settings import Settings
from celeriac.wiring.options import providers


def load_prices(settings: Settings) -> Prices:
    """Return the price table; raises ConfigurationError for a file that can't be read."""
    return Prices.load(settings.prices_file)


def model_price(
    settings: Settings, prices: Prices, model: str, *, input_tokens: int, output_tokens: int
) -> Decimal | None:
    """Return what so many tokens of `provider/model` cost; None where no price is known.

    Raises AgentMisconfiguredError for what is no such name.
    """
    choice = providers(settings).choose(model, reached=False)
    return prices.cost(choice, Tokens(input=input_tokens, output=output_tokens))
