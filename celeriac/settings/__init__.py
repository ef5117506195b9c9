"""Settings: frozen, grouped, and the only reader of the environment.

Standard names (`DATABASE_URL`, `REDIS_URL`, `CELERY_BROKER_URL`, `CELERY_RESULT_BACKEND`) are
honoured as they are; everything else is `CELERIAC_…`. Documented in docs/configuration.md.
"""

from celeriac.settings.celery import CelerySettings
from celeriac.settings.models import ProviderLimit, ProviderSettings
from celeriac.settings.outside import ApprovalSettings, OutboundSettings
from celeriac.settings.processes import ApiSettings, KeeperSettings, WorkerSettings
from celeriac.settings.retention import RetentionSettings
from celeriac.settings.whole import GROUPS, Settings

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
