"""Which provider a model names, and what a user is told where none can be reached."""

import pytest

from celeriac.agents.models import Provider, Providers
from celeriac.domain.errors import AgentMisconfiguredError, ConfigurationError

OPENAI = "https://api.openai.com/v1"


def configured(
    *,
    openai_base_url: str = OPENAI,
    openai_api_key: str | None = "sk-test",
    local_model_url: str | None = "http://127.0.0.1:9/v1",
    others: dict[str, tuple[str, str]] | None = None,
) -> Providers:
    return Providers.configured(
        openai_base_url=openai_base_url,
        openai_api_key=openai_api_key,
        local_model_url=local_model_url,
        others=others or {},
    )


@pytest.mark.requirement("E5")
@pytest.mark.parametrize(
    ("name", "provider", "model"),
    [
        ("openai/gpt-5-mini", "openai", "gpt-5-mini"),
        ("local/smollm2", "local", "smollm2"),
        ("vllm/Qwen/Qwen3-8B", "vllm", "Qwen/Qwen3-8B"),
    ],
)
def test_a_model_names_its_provider(name: str, provider: str, model: str) -> None:
    choice = configured(others={"vllm": ("http://gpu:8000/v1", "none")}).choose(name)

    assert (choice.provider.name, choice.model) == (provider, model)
    assert str(choice) == name


@pytest.mark.parametrize("name", ["smollm2", "/smollm2", "local/", "/"])
def test_a_model_without_provider_or_name_is_told_the_form(name: str) -> None:
    with pytest.raises(AgentMisconfiguredError, match="must be provider/model"):
        configured().choose(name)


def test_an_unknown_provider_is_told_the_known_ones() -> None:
    with pytest.raises(AgentMisconfiguredError, match="local, openai, vllm") as raised:
        configured(others={"vllm": ("http://gpu:8000/v1", "none")}).choose("olama/llama3")

    assert raised.value.details["field"] == "model"


@pytest.mark.parametrize(
    ("providers", "name", "cure"),
    [
        (configured(openai_api_key=None), "openai/gpt-5-mini", "OPENAI_API_KEY"),
        (configured(local_model_url=None), "local/smollm2", "celeriac up"),
    ],
)
def test_what_is_missing_is_named_with_its_cure(providers: Providers, name: str, cure: str) -> None:
    with pytest.raises(AgentMisconfiguredError, match=cure):
        providers.choose(name)


def test_a_gateway_in_the_place_of_openai_may_need_no_key() -> None:
    providers = configured(openai_base_url="http://gateway/v1", openai_api_key=None)

    assert providers.choose("openai/gpt-5-mini").provider.base_url == "http://gateway/v1"


def test_one_of_the_others_may_take_the_place_of_a_known_one() -> None:
    providers = configured(local_model_url=None, others={"local": ("http://other/v1", "none")})

    assert providers.choose("local/any").provider.base_url == "http://other/v1"


@pytest.mark.parametrize("address", ["gpu:8000/v1", "ftp://gpu/v1", "", "https://"])
def test_a_base_url_that_is_none_is_a_wrong_setting(address: str) -> None:
    with pytest.raises(ConfigurationError, match="'vllm'"):
        configured(others={"vllm": (address, "none")})


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://127.0.0.1:11434/v1", True),
        ("http://localhost/v1", True),
        ("http://[::1]:8000/v1", True),
        ("https://api.openai.com/v1", False),
    ],
)
def test_servers_of_this_machine_are_known(address: str, *, expected: bool) -> None:
    assert Provider(name="any", base_url=address).on_loopback is expected


def test_a_key_shows_in_no_repr() -> None:
    assert "sk-secret" not in repr(Provider(name="a", base_url=OPENAI, api_key="sk-secret"))
