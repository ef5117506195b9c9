"""How long things are kept."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

_CENTURY = 36_500


class RetentionSettings(BaseSettings):
    """Days after which the keeper removes things, 0 for never; `CELERIAC_RETENTION_…`."""

    model_config = SettingsConfigDict(env_prefix="CELERIAC_RETENTION_", frozen=True, extra="ignore")

    executions_days: float = Field(default=180, ge=0, le=_CENTURY)
    """Executions that have ended, with their events, model calls, approvals, reports and files."""
    sessions_days: float = Field(default=90, ge=0, le=_CENTURY)
    """Sessions that nobody goes on with: their files and state."""
    files_days: float = Field(default=30, ge=0, le=_CENTURY)
    """Files in the directories of executions that have ended."""
    logs_days: float = Field(default=30, ge=0, le=_CENTURY)
    """Log files of executions and of the errors of a day."""
    audit_days: float = Field(default=730, ge=0, le=_CENTURY)
    """Entries of the audit trail."""
    idempotency_days: float = Field(default=30, ge=0, le=_CENTURY)
    """Idempotency keys; from then on the same key makes new work."""
    interval_seconds: float = Field(default=300, gt=0)
    """How often the keeper looks for what is old enough."""
