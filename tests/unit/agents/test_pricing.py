"""What a model call costs, and that nothing is made up."""

from decimal import Decimal
from pathlib import Path

import pytest

from celeriac.agents.models import (
    ModelRef,
    Price,
    Prices,
    Provider,
    Providers,
    Tokens,
    price_by_name,
)
from celeriac.domain.errors import ConfigurationError

OPENAI = Provider(name="openai", base_url="https://api.openai.com/v1")
GATEWAY = Provider(name="openai", base_url="https://gateway.example/v1")
LOCAL = Provider(name="local", base_url="http://127.0.0.1:9/v1")
MILLION = Tokens(input=1_000_000, output=1_000_000)


def prices(tmp_path: Path, text: str) -> Prices:
    file = tmp_path / "prices.json"
    file.write_text(text)
    return Prices.load(file)


@pytest.mark.requirement("E5")
def test_a_known_model_has_its_published_price() -> None:
    cost = Prices().cost(ModelRef(OPENAI, "gpt-4o-mini"), MILLION)

    assert cost == Decimal("0.75"), "$0.15 in and $0.60 out per million tokens"


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        (OPENAI, "no-such-model"),
        (GATEWAY, "gpt-4o-mini"),
        (Provider(name="vllm", base_url="http://gpu:8000/v1"), "gpt-4o-mini"),
    ],
)
def test_an_unknown_price_is_none(provider: Provider, model: str) -> None:
    assert Prices().cost(ModelRef(provider, model), MILLION) is None


def test_the_local_model_is_free() -> None:
    assert Prices().cost(ModelRef(LOCAL, "smollm2"), MILLION) == 0


def test_own_prices_come_first(tmp_path: Path) -> None:
    table = prices(
        tmp_path,
        '{"openai/gpt-4o-mini": {"input": 0.1, "cached_input": 0.01, "output": 1},'
        ' "local/smollm2": {"input": 0.5, "output": 0.5}}',
    )

    tokens = Tokens(input=1_000_000, output=100_000, cached=600_000)
    assert table.cost(ModelRef(OPENAI, "gpt-4o-mini"), tokens) == Decimal("0.146")
    assert table.cost(ModelRef(LOCAL, "smollm2"), tokens) == Decimal("0.55")


def test_the_file_has_a_version_and_beginnings_of_names(tmp_path: Path) -> None:
    table = prices(
        tmp_path,
        '{"version": "2026-11", "prices": {"vllm/*": {"input": 1, "output": 1},'
        ' "vllm/qwen*": {"input": 2, "output": 2}, "vllm/qwen3": {"input": 3, "output": 3}}}',
    )

    assert table.version == "2026-11"
    names = ("vllm/qwen3", "vllm/qwen3-8b", "vllm/gemma", "other/qwen3")
    found = [table.own_price(name) for name in names]
    assert [each and each.input for each in found] == [3, 2, 1, None]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"version": "1"}', "prices"),
        ('{"prices": {}}', "version"),
        ('{"version": "1", "prices": {"a/b": {"input": 1}}}', "output"),
        ('{"a/b": {"input": 1}}', "output"),
        ('{"a/b": {"input": -1, "output": 1}}', "greater than or equal to 0"),
        ('{"a/b": {"input": "NaN", "output": 1}}', "finite"),
        ('{"a/b": {"input": 1, "output": 1, "per": "token"}}', "per"),
        ("[]", "object"),
        ("{", "JSON"),
    ],
)
def test_a_wrong_file_is_told_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"CELERIAC_PRICES_FILE.*{says}"):
        prices(tmp_path, text)


def test_a_missing_file_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        Prices.load(tmp_path / "prices.json")


def test_calls_that_agents_tell_are_priced_by_name() -> None:
    price = price_by_name(
        Providers([]), Prices({"mill/flour": Price(input=Decimal(2), output=Decimal(4))})
    )

    assert price("mill", "flour", Tokens(1_000_000, 500_000)) == 4
    assert price("mill", "bread", Tokens(1, 1)) is None
    assert price("", "flour", Tokens(1, 1)) is None
