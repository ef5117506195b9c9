"""Settings: what the environment says, and what a wrong environment is told."""

import pytest

from celeriac.domain.errors import ConfigurationError
from celeriac.settings import Settings


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.requirement("A22", "B1")
def test_broker_and_results_have_redis_databases_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", "rediss://ada:pw@cache:6380/0?ssl_cert_reqs=required")
    settings = Settings.load()
    assert settings.require_redis().endswith("/0?ssl_cert_reqs=required")
    assert settings.broker_url() == "rediss://ada:pw@cache:6380/1?ssl_cert_reqs=required"
    assert settings.result_backend() == "rediss://ada:pw@cache:6380/2?ssl_cert_reqs=required"


def test_a_key_prefix_makes_one_database_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "sentinel://s1,s2/3?master=main"
    monkeypatch.setenv("REDIS_URL", url)
    assert Settings.load().broker_url() == "sentinel://s1,s2/1?master=main"
    monkeypatch.setenv("CELERIAC_REDIS_KEY_PREFIX", "shop:")
    settings = Settings.load()
    assert settings.broker_url() == settings.result_backend() == settings.require_redis() == url


def test_migrations_need_an_address_without_the_pooler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://pooler/celeriac")
    assert Settings.load().direct_database() == "postgresql://pooler/celeriac"
    monkeypatch.setenv("CELERIAC_DATABASE_POOLER", "true")
    with pytest.raises(ConfigurationError, match="CELERIAC_DATABASE_DIRECT_URL is not set"):
        Settings.load().direct_database()
    monkeypatch.setenv("CELERIAC_DATABASE_DIRECT_URL", "postgresql://db/celeriac")
    assert Settings.load().direct_database() == "postgresql://db/celeriac"


@pytest.mark.requirement("B1")
def test_the_standard_names_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "DATABASE_URL": "postgresql://db/celeriac",
        "REDIS_URL": "redis://cache/0",
        "CELERY_BROKER_URL": "amqp://rabbit//",
        "CELERY_RESULT_BACKEND": "redis://results/7",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    assert values == {
        "DATABASE_URL": settings.require_database(),
        "REDIS_URL": settings.require_redis(),
        "CELERY_BROKER_URL": settings.broker_url(),
        "CELERY_RESULT_BACKEND": settings.result_backend(),
    }


@pytest.mark.parametrize(
    "written", ["shop.agents,office", " shop.agents , office ", '["shop.agents", "office"]']
)
def test_names_are_given_with_commas_or_as_json(
    monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setenv("CELERIAC_AGENT_MODULES", written)
    assert Settings.load().agent_modules == ("shop.agents", "office")


def test_providers_are_json_and_take_nothing_from_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("API_KEY", "somebody else's")
    monkeypatch.setenv("CELERIAC_PROVIDERS", '{"vllm": {"base_url": "http://gpu:8000/v1"}}')
    provider = Settings.load().providers["vllm"]
    assert provider.base_url == "http://gpu:8000/v1"
    assert provider.api_key.get_secret_value() == "none"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        (
            "CELERIAC_CELERY_TASK_TIME_LIMIT",
            "abc",
            "CELERIAC_CELERY_TASK_TIME_LIMIT: must be a number, more than 0, not 'abc'",
        ),
        ("CELERIAC_CELERY_TASK_TIME_LIMIT", "7", "TASK_SOFT_TIME_LIMIT (55 s) must be less than"),
        ("CELERIAC_CELERY_TIMEZONE", "Mars", "CELERIAC_CELERY_TIMEZONE: 'Mars' is not a time zone"),
        ("CELERIAC_WORKER_HEARTBEAT_SECONDS", "20", "must be at most half of"),
        (
            "CELERIAC_KEEPER_BATCH_SIZE",
            "0",
            "CELERIAC_KEEPER_BATCH_SIZE: must be a number, at least 1, not '0'",
        ),
        ("CELERIAC_KEEPER_BATCH_SIZE", "1.5", "must be a whole number, at least 1, not '1.5'"),
        (
            "CELERIAC_API_PORT",
            "99999",
            "CELERIAC_API_PORT: must be a number, at least 0 and at most 65535, not '99999'",
        ),
        ("CELERIAC_API_PORT", "x" * 99, f"not '{'x' * 59}…'"),
        ("CELERIAC_WORKER_RELOAD", "maybe", "WORKER_RELOAD: must be true or false, not 'maybe'"),
        ("CELERIAC_LOG_CONSOLE", "loud", "must be one of 'auto', 'json', 'pretty', 'off', not"),
        ("CELERIAC_SECRET_KEY", "short", "CELERIAC_SECRET_KEY: must have at least 32 characters"),
        ("CELERIAC_AGENT_MODULES", '["shop"', "CELERIAC_AGENT_MODULES: must be JSON"),
        ("CELERIAC_PROVIDERS", "vllm", "CELERIAC_PROVIDERS: must be JSON"),
        ("CELERIAC_PROVIDERS", '{"vllm": {}}', "CELERIAC_PROVIDERS.vllm.base_url: is missing"),
        ("CELERIAC_PROVIDERS", "[1]", "CELERIAC_PROVIDERS: must be a JSON object"),
        ("CELERIAC_COMMANDS", "count", "CELERIAC_COMMANDS: must be JSON"),
        ("CELERIAC_COMMANDS", '{"a b": ["x"]}', "CELERIAC_COMMANDS.a b.[key]: "),
        ("CELERIAC_COMMANDS", '{"count": []}', "CELERIAC_COMMANDS.count: must have at least 1"),
        ("CELERIAC_COMMANDS", '{"count": "x"}', "CELERIAC_COMMANDS.count: must be a list"),
        ("CELERIAC_COMMANDS", '{"count": [""]}', "must be an absolute path, or a name"),
        ("CELERIAC_COMMANDS", '{"count": ["./x"]}', "CELERIAC_COMMANDS.count: './x' must be an"),
        ("CELERIAC_COMMANDS", '{"count": ["tools/x"]}', "'tools/x' must be an absolute path"),
        ("CELERIAC_AGENT_ENVIRONMENT", "SHOP_*,OPENAI_API_KEY", "OPENAI_API_KEY"),
        ("CELERIAC_AGENT_ENVIRONMENT", "openai_api_key", "'openai_api_key', which would let"),
        ("CELERIAC_AGENT_ENVIRONMENT", "*", "'*', which would let agents see ANTHROPIC_API_KEY"),
        ("CELERIAC_AGENT_ENVIRONMENT", "?ATABASE_*", "see DATABASE_URL"),
        ("CELERIAC_AGENT_ENVIRONMENT", "CELERIAC_FLAVOUR", "see Celeriac's own"),
        ("CELERIAC_AGENT_ENVIRONMENT", "a b", "CELERIAC_AGENT_ENVIRONMENT.0: "),
        ("CELERIAC_AGENT_USER", "../root", "CELERIAC_AGENT_USER: "),
        ("DATABASE_URL", "mysql://db", "DATABASE_URL: must begin with postgresql://"),
        ("REDIS_URL", "valkey://cache", "REDIS_URL: must begin with redis:// or rediss://"),
        ("DATABASE_URL", "postgresql://db:pw@host:abc/x", "DATABASE_URL: has a port that is no"),
        ("DATABASE_URL", "postgresql://a:1,b:x/db", "DATABASE_URL: has a port that is not a"),
        ("DATABASE_URL", "postgresql://[::1]:70000/x", "DATABASE_URL: has a port that is no"),
        ("REDIS_URL", "rediss://cache:99999/0", "REDIS_URL: has a port that is not a number"),
        ("REDIS_URL", "sentinel://s1,s2/0", "needs the name of the primary: sentinel://host"),
        ("CELERY_BROKER_URL", "sentinel://s1/0?master=m&db=1", "has the unknown parameter db"),
        ("CELERY_BROKER_URL", "amqp://a:1//;amqp://b:x//", "has a port that is not a number"),
        ("CELERIAC_DATABASE_POOLER", "true", "CELERIAC_DATABASE_POOLER needs DATABASE_URL"),
        ("CELERIAC_CELERY_QUEUE_TYPE", "stream", "must be one of 'quorum', 'classic', not"),
        ("CELERY_BROKER_URL", "amqp://rabbit:-1//", "CELERY_BROKER_URL: has a port that is no"),
        ("CELERY_RESULT_BACKEND", "redis://x:1e3", "CELERY_RESULT_BACKEND: has a port that is"),
    ],
)
def test_what_is_wrong_is_told_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        Settings.load()
    assert told in caught.value.message
    for library in ("Input should", "Field required", "valid ", "unable to parse"):
        assert library not in caught.value.message, "the wording is our own"


def test_a_secret_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://ada:hunter2@db")
    monkeypatch.setenv("CELERIAC_SECRET_KEY", "hunter2")
    monkeypatch.setenv("CELERIAC_APPROVALS_WEBHOOK_SECRET", "hunter2")
    monkeypatch.setenv("CELERIAC_PROVIDERS", '{"x": {"base_url": ["hunter2"], "api_key": []}}')
    with pytest.raises(ConfigurationError) as caught:
        Settings.load()
    assert "hunter2" not in caught.value.message


def test_servers_that_nobody_named_are_missed_when_they_are_needed() -> None:
    settings = Settings.load()
    with pytest.raises(ConfigurationError, match="DATABASE_URL is not set"):
        settings.require_database()
    with pytest.raises(ConfigurationError, match="REDIS_URL is not set"):
        settings.broker_url()


def test_commands_are_programs_with_arguments_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERIAC_COMMANDS", '{"count": ["/opt/wc", "--json"], "up": ["upper"]}')
    assert Settings.load().commands == {"count": ("/opt/wc", "--json"), "up": ("upper",)}


def test_variables_that_hold_headers_of_tool_servers_are_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servers = '{"crm": {"url": "https://crm/mcp", "headers": {"Authorization": "Crm_Auth"}}}'
    monkeypatch.setenv("CELERIAC_MCP_SERVERS", servers)
    assert "CRM_AUTH" in Settings.load().reserved
    monkeypatch.setenv("CELERIAC_AGENT_ENVIRONMENT", "SHOP_URL,CRM_*")
    with pytest.raises(ConfigurationError, match=r"'CRM_\*', which would let agents see CRM_AUTH"):
        Settings.load()
    monkeypatch.setenv("CELERIAC_AGENT_ENVIRONMENT", '["SHOP_*", "LOCALE"]')
    assert Settings.load().agent_environment == ("SHOP_*", "LOCALE")


def test_tasks_that_start_executions_can_not_be_sent_over_http(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(
        "CELERIAC_API_CELERY_TASK_ALLOW_LIST", "own.task,celeriac.tasks.execution.execute_agent"
    )
    with pytest.raises(ConfigurationError, match="CELERIAC_API_CELERY_TASK_ALLOW_LIST"):
        Settings.load()
