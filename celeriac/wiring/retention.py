"""How long things are kept, as the settings have it."""

from celeriac.adapters.background import InBackground
from celeriac.services.retention import Retention, RetentionPolicy
from celeriac.wiring.container import Container
from celeriac.wiring.options import places


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
        container.database, places(settings), policy, batch=settings.keeper.batch_size
    )
    return InBackground(retention, name="retention")
