"""The audit trail and how long things are kept, as the settings have it."""

from celeriac.adapters.background import InBackground
from celeriac.services.audit import AuditTrail
from celeriac.services.retention import Retention, RetentionPolicy
from celeriac.wiring.container import Container
from celeriac.wiring.options import places, secret_key


def build_audit_trail(container: Container) -> AuditTrail | None:
    """Return what seals the audit trail, or None where there is no secret key to seal with."""
    if container.settings.secret_key is None:
        return None
    return AuditTrail(container.database, secret_key(container.settings))


def build_retention(container: Container) -> InBackground:
    """Return what removes what is old enough, each time it is called."""
    settings = container.settings
    wanted = settings.retention
    policy = RetentionPolicy(
        executions=wanted.executions_days,
        sessions=wanted.sessions_days,
        files=wanted.files_days,
        logs=wanted.logs_days,
        audit=wanted.audit_days,
        idempotency_keys=wanted.idempotency_days,
    )
    retention = Retention(
        container.database,
        places(settings),
        policy,
        build_audit_trail(container),
        batch=settings.keeper.batch_size,
    )
    return InBackground(retention, name="retention")
