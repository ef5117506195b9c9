"""Settings of model providers."""

from pydantic import BaseModel, ConfigDict, SecretStr


class ProviderSettings(BaseModel):
    """One OpenAI-compatible endpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str
    api_key: SecretStr = SecretStr("none")
