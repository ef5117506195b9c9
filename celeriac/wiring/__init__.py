"""The composition root: from settings to working parts, for every program and for the tests."""

from celeriac.wiring.container import Container, build
from celeriac.wiring.desk import Desk, build_accounts, build_desk
from celeriac.wiring.keeper import (
    KEEPER_CONNECTIONS,
    build_audit_trail,
    build_maintenance,
    build_notices,
    build_retention,
)
from celeriac.wiring.machinery import Machinery, build_machinery, worker_lock_seconds
from celeriac.wiring.options import SECRET_KEY_NAME, celery_options, load_settings, log_options
from celeriac.wiring.prices import load_prices, model_price
from celeriac.wiring.runners import build_runners

__all__ = [
    "KEEPER_CONNECTIONS",
    "SECRET_KEY_NAME",
    "Container",
    "Desk",
    "Machinery",
    "build",
    "build_accounts",
    "build_audit_trail",
    "build_desk",
    "build_machinery",
    "build_maintenance",
    "build_notices",
    "build_retention",
    "build_runners",
    "celery_options",
    "load_prices",
    "load_settings",
    "log_options",
    "model_price",
    "worker_lock_seconds",
]
