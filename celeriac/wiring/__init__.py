"""The composition root: from settings to working parts, for every program and for the tests."""

from celeriac.wiring.api import ApiServices, build_accounts, build_api_services
from celeriac.wiring.core import (
    SECRET_KEY_NAME,
    CoreServices,
    build,
    build_runners,
    celery_options,
    load_prices,
    load_settings,
    log_options,
    model_price,
)
from celeriac.wiring.keeper import (
    KEEPER_CONNECTIONS,
    build_audit_trail,
    build_maintenance,
    build_notices,
    build_retention,
)
from celeriac.wiring.worker import WorkerRuntime, build_worker_runtime, worker_lock_seconds

__all__ = [
    "KEEPER_CONNECTIONS",
    "SECRET_KEY_NAME",
    "ApiServices",
    "CoreServices",
    "WorkerRuntime",
    "build",
    "build_accounts",
    "build_api_services",
    "build_audit_trail",
    "build_maintenance",
    "build_notices",
    "build_retention",
    "build_runners",
    "build_worker_runtime",
    "celery_options",
    "load_prices",
    "load_settings",
    "log_options",
    "model_price",
    "worker_lock_seconds",
]
