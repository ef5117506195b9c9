"""Settings of what is sent to the outside."""

import pytest

from celeriac.domain.errors import ConfigurationError
from celeriac.settings import Settings


def test_a_webhook_needs_a_secret_to_be_signed_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERIAC_APPROVALS_WEBHOOK", "https://hooks.example.com/secret-path")

    with pytest.raises(ConfigurationError, match="CELERIAC_APPROVALS_WEBHOOK_SECRET") as told:
        Settings.load()

    assert "secret-path" not in told.value.message, "an address may hold a secret"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CELERIAC_APPROVALS_WEBHOOK", "ftp://example.com"),
        ("CELERIAC_PUBLIC_URL", "celeriac.example.com"),
        ("CELERIAC_OUTBOUND_ALLOW_HOSTS", "10.0.0.0/40"),
    ],
)
def test_what_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("CELERIAC_APPROVALS_WEBHOOK_SECRET", "s" * 16)
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError, match=name):
        Settings.load()


def test_hosts_and_addresses_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERIAC_OUTBOUND_ALLOW_HOSTS", "hooks.internal, 10.1.0.0/16")
    monkeypatch.setenv("CELERIAC_PUBLIC_URL", "https://celeriac.example.com/")

    settings = Settings.load()

    assert settings.outbound.guard().names("HOOKS.internal")
    assert settings.outbound.guard().names("10.1.2.3")
    assert not settings.outbound.guard().names("localhost")
    assert settings.public_url == "https://celeriac.example.com"
