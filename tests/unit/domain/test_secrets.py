"""Secrets: their encryption, the values that are accepted, and names of variables."""

from uuid import uuid4

import pytest
from pydantic import ValidationError

from celeriac.domain.agents import CommandAgent, LlmAgent, McpServer, PythonAgent, SecretGrant
from celeriac.domain.confinement import AgentConfinement
from celeriac.domain.environment import EnvironmentRule
from celeriac.domain.errors import ConfigurationError, InvalidInputError
from celeriac.domain.secrets.cipher import SecretCipher
from celeriac.domain.secrets.model import LONGEST_VALUE, check_value
from celeriac.services.secrets.grants import spec_faults

pytestmark = pytest.mark.requirement("F25")

OLD, NEW, OTHER = ("old-" * 8, "new-" * 8, "other-" * 8)
VALUE = "github_pat_0123456789"


def test_a_value_is_read_with_any_of_the_keys() -> None:
    key = uuid4()
    stored = SecretCipher([OLD]).encrypt(key, 1, VALUE)
    rotated = SecretCipher([NEW, OLD])

    assert VALUE.encode() not in stored
    assert rotated.decrypt(key, 1, stored) == VALUE
    assert not stored.startswith(rotated.key_id)
    again = rotated.encrypt(key, 1, VALUE)
    assert SecretCipher([NEW]).decrypt(key, 1, again) == VALUE
    with pytest.raises(ConfigurationError, match="CELERIAC_ENCRYPTION_KEYS"):
        SecretCipher([OTHER]).decrypt(key, 1, stored)


def test_what_is_stored_belongs_to_one_version_of_one_secret() -> None:
    cipher, key = SecretCipher([OLD]), uuid4()
    stored = cipher.encrypt(key, 2, VALUE)

    for other, version, text in (
        (uuid4(), 2, stored),
        (key, 1, stored),
        (key, 2, stored[:-1] + bytes([stored[-1] ^ 1])),
    ):
        with pytest.raises(ConfigurationError, match="was changed") as caught:
            cipher.decrypt(other, version, text)
        assert VALUE not in str(caught.value)


@pytest.mark.parametrize("value", ["", "1234567", "  1234567  ", "a" * (LONGEST_VALUE + 1),
                                   "abc\x00defghi"])  # fmt: skip
def test_values_that_can_not_be_masked_or_handed_in_are_refused(value: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_value(value)
    assert caught.value.details["field"] == "value"
    assert not value.strip() or value not in caught.value.message


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("GITHUB_TOKEN", True), ("TOKEN", True), ("AWS_ACCESS_KEY_ID", True), ("PGPASSWORD", True),
        ("DATABASE_URL", True), ("PATH", False), ("LD_PRELOAD", False), ("GIT_SSH_COMMAND", False),
        ("PYTHONPATH", False), ("BASH_ENV", False), ("HTTP_PROXY", False), ("github_token", False),
        ("NODE_OPTIONS", False), ("SSH_ASKPASS", False), ("1_TOKEN", False), ("A\nTOKEN", False),
    ],
)  # fmt: skip
def test_variables_of_secrets_have_names_of_secrets(name: str, good: bool) -> None:
    if good:
        assert SecretGrant(name="a", variable=name).variable == name
    else:
        with pytest.raises(ValidationError, match="such as TOKEN"):
            SecretGrant(name="a", variable=name)


def test_faults_of_an_agents_secrets() -> None:
    rule = EnvironmentRule(("SHOP_*",), frozenset({"OPENAI_API_KEY"}))
    grants = (
        SecretGrant(name="a", variable="SHOP_TOKEN"),
        SecretGrant(name="b", variable="SHOP_TOKEN"),
        SecretGrant(name="c", variable="OPENAI_API_KEY"),
    )
    agent = PythonAgent(function="a:b", environment=("SHOP_TOKEN",), secrets=grants)
    found = [str(each) for each in spec_faults(agent, rule)]
    assert len(found) == 3
    assert "same variable, SHOP_TOKEN" in found[0]
    assert "in the agent's environment" in found[1]
    assert "OPENAI_API_KEY, which configures Celeriac" in found[2]
    assert not [*spec_faults(CommandAgent(command="a", secrets=grants[:1]), rule)]

    http = McpServer(name="crm", url="https://crm.example/mcp")
    llm = LlmAgent(model="local/a", secrets=grants[:1], mcp_servers=(http,))
    assert "over stdio, and it has none" in str(*spec_faults(llm, rule))
    local = llm.model_copy(update={"mcp_servers": (http, McpServer(name="files"))})
    assert not [*spec_faults(local, rule)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "a variable or a host"),
        ({"variable": "A_TOKEN", "host": "a.example"}, "a variable or a host"),
        ({"host": "*.example.com"}, "host"),
        ({"host": "127.0.0.1"}, "not an address"),
        ({"host": "a.example", "template": "Bearer"}, "must have {secret} once"),
        ({"host": "a.example", "template": "{secret}\n"}, "template"),
        ({"host": "a.example", "header": "Host"}, "belongs to the connection"),
        ({"host": "a.example", "header": "X: y"}, "header"),
        ({"host": "a.example", "user": "a:b"}, "user"),
    ],
)
def test_grants_for_hosts_that_are_refused(values: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SecretGrant(name="a", **values)


def test_a_secret_for_a_host_needs_a_confined_agent_that_reaches_it() -> None:
    grants = (SecretGrant(name="a", host="API.example.com"), SecretGrant(name="b", variable="KEY"))
    assert grants[0].endpoint == SecretGrant(name="a", host="api.example.com:443").endpoint
    agent = CommandAgent(command="a", secrets=grants)
    assert "confinement.network" in str(*spec_faults(agent, EnvironmentRule()))
    for network, good in (((), False), (("api.example.com:80",), False), (("*",), True),
                          (("api.example.com",), True)):  # fmt: skip
        asked = agent.model_copy(update={"confinement": AgentConfinement(network=network)})
        assert (not [*spec_faults(asked, EnvironmentRule())]) is good
    twice = agent.model_copy(
        update={
            "secrets": (*grants, SecretGrant(name="c", host="api.example.com")),
            "confinement": AgentConfinement(network=("*",)),
        }
    )
    assert "same header" in str(*spec_faults(twice, EnvironmentRule()))
