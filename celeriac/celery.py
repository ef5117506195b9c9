"""The Celery app, so that `celery -A celeriac worker|beat|inspect|flower` works."""

import sys

from celeriac.kit.collector import paused

with paused():
    from celeriac.adapters.celery_queue import create_app
    from celeriac.domain.errors import ConfigurationError
    from celeriac.logs import Service
    from celeriac.wiring.core import celery_options, load_settings, log_options
    from celeriac.worker.lifecycle import Lifecycle
    from celeriac.worker.signals import connect_logging

try:
    settings = load_settings()
    app = create_app(celery_options(settings, publisher=False))
except ConfigurationError as error:
    # Celery's command would show three tracebacks above the sentence that helps
    if "celery.bin.celery" in sys.modules:
        sys.exit(f"error: {error.message}")
    raise
app.celeriac = Lifecycle(app, settings)
app.celeriac.connect()
connect_logging(
    worker=log_options(settings, Service.WORKER), beat=log_options(settings, Service.BEAT)
)
