"""Settings of model providers."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator


class ProviderSettings(BaseModel):
    """One OpenAI-compatible endpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str
    api_key: SecretStr = SecretStr("none")


class ProviderLimit(BaseModel):
    """How much a provider, or one of its models, is sent in a minute by all workers together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Input and output tokens together."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.requests_per_minute is None and self.tokens_per_minute is None:
            raise ValueError("set requests_per_minute, tokens_per_minute or both")
        return self
