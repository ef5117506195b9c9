"""Settings: frozen, in groups, and the only reader of the environment.

Standard names (`DATABASE_URL`, `REDIS_URL`, `CELERY_BROKER_URL`, `CELERY_RESULT_BACKEND`) are
read as they are; all others are `CELERIAC_…`. Documented in docs/configuration.md.
"""

from celeriac.settings.sections import (
    ApiSettings,
    ApprovalSettings,
    CelerySettings,
    KeeperSettings,
    OutboundSettings,
    ProviderLimit,
    ProviderSettings,
    RetentionSettings,
    WorkerSettings,
)
from celeriac.settings.settings import GROUPS, Settings

__all__ = [
    "GROUPS",
    "ApiSettings",
    "ApprovalSettings",
    "CelerySettings",
    "KeeperSettings",
    "OutboundSettings",
    "ProviderLimit",
    "ProviderSettings",
    "RetentionSettings",
    "Settings",
    "WorkerSettings",
]
